"""The epochs on record in PostgreSQL."""

import sqlalchemy as sa

from infra.epochs import Epochs, note_written, plan, read


def test_epochs_are_only_ever_raised(engine: sa.Engine) -> None:
    seen = [read(engine)]
    for call, epoch in ((plan, 3), (note_written, 2), (note_written, 3), (plan, 1), (note_written, 1), (plan, 4)):
        call(engine, epoch)
        seen.append(read(engine))

    assert seen == [Epochs(*pair) for pair in ((0, 0), (3, 0), (3, 2), (3, 3), (3, 3), (3, 3), (4, 3))]


def test_an_epoch_that_was_found_counts_as_planned_too(engine: sa.Engine) -> None:
    note_written(engine, 5)

    assert read(engine) == Epochs(5, 5)
