"""What a coordinator asks and tells PostgreSQL of epochs: whether ZooKeeper's placement is the one that was there, and
which epoch may be next. PostgreSQL is asked when it begins to lead and when the epoch is raised, and not otherwise.
"""

from contextlib import suppress

import sqlalchemy as sa

from infra.epochs import Epochs, note_written, plan, read
from infra.errors import ConfigurationError, DatabaseUnavailable
from infra.shard_znodes import Znodes

NOT_ASKED = -1


class EpochGuard:
    """One leader's. `approve` of another epoch and `plan_next` raise `DatabaseUnavailable`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._approved: int | None = NOT_ASKED
        self._epochs = Epochs(0, 0)

    def approve(self, znodes: Znodes) -> None:
        """Raises `ConfigurationError`, with the command to run, when ZooKeeper has lost what it held."""
        if znodes.epoch != self._approved:
            self._epochs = read(self._engine)
        if (reason := znodes.refusal(self._epochs)) is not None:
            self._approved = NOT_ASKED
            raise ConfigurationError(reason)
        self._approved = znodes.epoch
        self._note(znodes.epoch)

    def plan_next(self, epoch: int) -> int:
        """The epoch after this one; on record before it is used, and never one that was planned before."""
        self._epochs = read(self._engine)
        following = max(epoch, self._epochs.planned) + 1
        plan(self._engine, following)
        return following

    def note_written(self, epoch: int) -> None:
        """It is in ZooKeeper, by this leader. After a crash before this the next one notes it."""
        self._approved = epoch
        self._note(epoch)

    def _note(self, epoch: int | None) -> None:
        """While PostgreSQL is away this is tried again with each step: nodes wait for an epoch, and nobody for this."""
        if epoch is not None and epoch > self._epochs.written:
            with suppress(DatabaseUnavailable):
                note_written(self._engine, epoch)
                self._epochs = Epochs(max(epoch, self._epochs.planned), epoch)
