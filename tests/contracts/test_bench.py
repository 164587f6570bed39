"""What benchmarks do to a stack that others use."""

from typing import Any, cast

import numpy as np
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from benchmarks.stage import running_ground
from benchmarks.warm_state import Shape, fill, refuse_other_data
from infra.composition import Stores
from infra.errors import Conflict
from infra.settings import Settings
from infra.zookeeper import SNOWFLAKES_PATH
from producers.publish import Publisher
from tests.waiting import wait_until


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


def test_a_benchmark_gives_its_node_number_back_and_ends_without_a_warning(stores: Stores, settings: Settings) -> None:
    def leased() -> list[str]:
        return stores.zookeeper.children(SNOWFLAKES_PATH)

    with capture_logs() as logged:
        with running_ground(settings, cast(Any, None), beside_other_data=False) as ground:
            assert ground.publisher.create_user("somebody").handle == "somebody"
            wait_until(lambda: len(leased()) == 1)
        assert leased() == []

    assert [entry for entry in logged if entry["log_level"] != "info"] == []
