"""What PostgreSQL's driver says is told as our own errors."""

import pytest
import sqlalchemy as sa

from infra.database import driver_cursor, reading
from infra.errors import DatabaseUnavailable


def test_a_server_that_goes_away_under_copy_is_told_as_unavailable(engine: sa.Engine) -> None:
    with reading(engine) as connection, reading(engine) as other:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(DatabaseUnavailable, match="PostgreSQL at postgresql"), driver_cursor(connection) as cursor:
            cursor.execute("SELECT 1")
        connection.invalidate()
