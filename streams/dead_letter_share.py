"""How many of an agent's messages may become dead letters before the fault is not theirs.

A new release of a producer, a broken table or a bug of ours makes every message fail: burying them all would empty the
log into the dead letters. The policy is arithmetic; what to do about it is handling.py's.
"""

import threading

# The share is one of this many messages, also for an agent that has seen fewer: of ten messages it says nothing. At the
# default of 1 % that allows 1,000 letters, as many as one batch has messages: one may fail whole, a second one not.
WINDOW_MESSAGES = 100_000


class DeadLetterShare:
    """Counts one agent's messages and dead letters in this process. Safe to share between threads.

    Both counts are halved whenever the window is full, so that a long good past does not pay for a bad present.
    """

    def __init__(self, share_max: float) -> None:
        self._share_max = share_max
        self._lock = threading.Lock()
        self._messages = 0
        self._letters = 0

    def refuses(self, messages: int, letters: int) -> str | None:
        """Counts a batch of so many messages with so many letters among them, before they are buried.

        Returns why they must not be, or None when they may.
        """
        with self._lock:
            self._messages += messages
            self._letters += letters
            seen, made = self._messages, self._letters
            if letters and made > self.letters_max:
                return (
                    f"{made:,} of its last {seen:,} messages ({made / seen:.2%}) would be dead letters, and at most "
                    f"{self.letters_max:,} in {WINDOW_MESSAGES:,} ({self._share_max:.2%}) may"
                )
            if seen >= WINDOW_MESSAGES:
                self._messages, self._letters = seen // 2, made // 2
            return None

    @property
    def letters_max(self) -> int:
        """Letters that are allowed in one window."""
        return int(self._share_max * WINDOW_MESSAGES)
