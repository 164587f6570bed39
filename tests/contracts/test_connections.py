"""The pool of connections when the server ends them, as a restart does."""

import pytest
import sqlalchemy as sa

from infra import database
from infra.database import reading
from infra.errors import DatabaseUnavailable


def end_pooled_connections(engine: sa.Engine) -> None:
    """Ends those that wait in the pool."""
    with reading(engine) as connection:
        mine = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    admin = sa.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        assert connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": mine}).scalar_one()
    admin.dispose()


def look(engine: sa.Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(sa.text("SELECT 1")).scalar_one())


def test_a_connection_that_idled_and_was_ended_is_replaced_unseen(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_pooled_connections(engine)
    monkeypatch.setattr(database, "PING_AFTER_S", 0.0)
    assert look(engine) == 1


def test_one_in_constant_use_fails_once_and_is_replaced(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PING_AFTER_S", 3_600.0)
    end_pooled_connections(engine)
    with pytest.raises(DatabaseUnavailable):
        look(engine)
    assert look(engine) == 1
