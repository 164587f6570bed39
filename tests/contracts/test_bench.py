"""What benchmarks do to a stack that others use."""

import numpy as np
import pytest
import sqlalchemy as sa

from benchmarks.warm_state import Shape, fill, refuse_other_data
from infra.errors import Conflict
from producers.publish import Publisher


def test_a_stack_with_other_data_is_refused_unless_told_so(engine: sa.Engine, publisher: Publisher) -> None:
    refuse_other_data(engine, allowed=False)
    publisher.create_user("somebody")

    with pytest.raises(Conflict, match=r"holds 1 users already.*--beside-other-data"):
        refuse_other_data(engine, allowed=False)

    refuse_other_data(engine, allowed=True)


def test_what_is_written_lies_beside_the_users_that_are_there(engine: sa.Engine, publisher: Publisher) -> None:
    publisher.create_user("somebody", 500)
    shape = Shape(timelines=100, entries=32, fan_out=20)

    audience = fill(engine, shape, np.random.default_rng(7))

    assert audience.first == 501
    with engine.connect() as connection:
        counts = connection.execute(
            sa.text(
                "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM follows WHERE author_id > 500), "
                "(SELECT count(*) FROM tweets), (SELECT count(DISTINCT id) FROM tweets), (SELECT count(*) FROM outbox)"
            )
        ).one()
    assert tuple(counts) == (101, 1_600, shape.authors * shape.history, shape.authors * shape.history, 0)
