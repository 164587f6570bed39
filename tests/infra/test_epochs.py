import pytest

from infra.epochs import refusal


@pytest.mark.parametrize(
    ("zookeeper", "planned", "written"),
    [
        (None, 0, 0),  # a new deployment
        (None, 1, 0),  # a crash before its first placement was written
        (7, 7, 7),
        (7, 8, 7),  # a crash before the placement of epoch 8 was written
        (8, 8, 7),  # or before it was noted
        (9, 8, 7),  # PostgreSQL is the older one
        (1, 0, 0),  # and knows nothing
    ],
)
def test_a_zookeeper_that_has_what_was_written_is_not_refused(
    zookeeper: int | None, planned: int, written: int
) -> None:
    assert refusal(zookeeper, planned, written) is None


@pytest.mark.parametrize(
    ("zookeeper", "planned", "written", "begins"),
    [
        (None, 1, 1, "ZooKeeper holds no placement, but epoch 1 was written: "),
        (None, 9, 7, "ZooKeeper holds no placement, but epoch 7 was written and 9 was planned: "),
        (6, 7, 7, "ZooKeeper holds the placement of epoch 6, but epoch 7 was written: "),
        (1, 8, 7, "ZooKeeper holds the placement of epoch 1, but epoch 7 was written and 8 was planned: "),
    ],
)
def test_a_zookeeper_that_lost_what_was_written_is_refused_with_the_command(
    zookeeper: int | None, planned: int, written: int, begins: str
) -> None:
    said = refusal(zookeeper, planned, written)

    assert said is not None
    assert said.startswith(begins)
    assert "`fanfold shards restore`" in said
