"""Hedging: after which time a reading call that has not answered is sent to a second copy, and how often that may be.

After the 95th percentile of what calls of the same kind took lately in this process, so about one of twenty is late by
its nature; a share bounds what is sent twice, so that a system that is slow as a whole is not asked twice as much.
"""

from itertools import count

KINDS = ("home", "user", "body")  # a look into a user's slot; user timelines; tweet bodies

WINDOW_CALLS = 256  # some tenths of a second of a busy process, some seconds of one that is not
LOOK_EVERY_CALLS = 64  # sorting the window takes 15 µs
PERCENTILE = 0.95
DELAY_S_MIN = 0.002  # below it the second call costs more than it brings: poll counts in whole milliseconds
DELAY_S_MAX = 0.1  # whatever happened lately, a node that hangs is noticed by then
DELAY_S_FIRST = 0.02  # before anything is known
SHARE_MAX = 0.1  # of the calls: one of twenty is late by its nature
SAVED_MAX = 20.0  # hedges that may come at once after a quiet time: the calls under way when a node begins to hang


class Delay:
    """Of the calls of one kind. Shared between threads: a value that is lost in a race changes nothing."""

    def __init__(self) -> None:
        self.seconds = DELAY_S_FIRST
        self._took_s: list[float] = []
        self._calls = count(1)

    def note(self, took_s: float) -> None:
        """What a call took; of one whose answer nobody awaited, until it was left."""
        number = next(self._calls)
        if len(self._took_s) < WINDOW_CALLS:
            self._took_s.append(took_s)
        else:
            self._took_s[number % WINDOW_CALLS] = took_s
        if number % LOOK_EVERY_CALLS == 0:
            found = sorted(self._took_s)[int(len(self._took_s) * PERCENTILE)]
            self.seconds = min(max(found, DELAY_S_MIN), DELAY_S_MAX)


class Budget:
    """Hedges that may still be sent: a share of the calls, and some that were saved. Shared between threads: the rare
    one that is lost or had twice in a race changes nothing."""

    def __init__(self) -> None:
        self._saved = SAVED_MAX

    def earn(self) -> None:
        """A call was sent."""
        if self._saved < SAVED_MAX:
            self._saved += SHARE_MAX

    def spend(self) -> bool:
        """Whether one more hedge may be sent now."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


class Hedging:
    """What one process knows: a delay for each kind of call, and one budget."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.delays = {kind: Delay() for kind in KINDS}
