import os
import signal
from collections.abc import Iterator

import pytest

from benchmarks.stage import stop_once_on_signals

STOPPING = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", STOPPING)
def test_a_second_signal_does_not_interrupt_the_stopping(handlers: None, first: signal.Signals) -> None:
    stop_once_on_signals()

    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), first)

    for again in STOPPING:
        os.kill(os.getpid(), again)
