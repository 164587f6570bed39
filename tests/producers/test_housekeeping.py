"""The housekeeping's loop; what it does is tested on real servers."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from infra.errors import DatabaseUnavailable
from infra.settings import Settings
from producers import housekeeping

NO_ENGINE = cast(Any, None)


def rounds_of(monkeypatch: pytest.MonkeyPatch, sweep: Callable[[int], None]) -> tuple[list[str], list[str]]:
    """What three rounds did, and what they logged. `sweep` gets the round's number, from 1."""
    stop, done, beats = threading.Event(), list[str](), list[str]()

    def sweep_keys(_: object) -> int:
        done.append("sweep")
        if done.count("sweep") == 3:
            stop.set()
        sweep(done.count("sweep"))
        return 0

    def erase_left_behind(*_: object) -> int:
        done.append("erase")
        return 0

    monkeypatch.setattr(housekeeping, "sweep_keys", sweep_keys)
    monkeypatch.setattr(housekeeping, "erase_left_behind", erase_left_behind)
    with capture_logs() as logged:
        housekeeping.keep_house(Settings(), NO_ENGINE, stop, lambda: beats.append("beat"), period_s=0.001)
    assert len(beats) >= 3
    return done, [f"{entry['log_level']}: {entry['event']}" for entry in logged]


def test_each_round_sweeps_and_erases(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rounds_of(monkeypatch, lambda _: None) == (["sweep", "erase"] * 3, [])


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (DatabaseUnavailable("away"), "warning: housekeeping waits"),
        (ValueError("unforeseen"), "error: housekeeping failed"),
    ],
)
def test_an_error_ends_neither_the_housekeeping_nor_the_rest_of_its_round(
    monkeypatch: pytest.MonkeyPatch, error: Exception, logged: str
) -> None:
    def fail_first(number: int) -> None:
        if number == 1:
            raise error

    assert rounds_of(monkeypatch, fail_first) == (["sweep", "erase"] * 3, [logged])
