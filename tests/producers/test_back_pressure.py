"""Back-pressure: one look a second for all requests, and a refusal that says why."""

import anyio
import pytest

from infra.errors import DatabaseUnavailable, Overloaded
from infra.live_settings import LiveSettings
from producers.back_pressure import PERIOD_S, BackPressure


class Watch:
    """Back-pressure over a given age and a given time."""

    def __init__(self, age_s: float) -> None:
        self.age_s = age_s
        self.now_s = 100.0
        self.looks = 0
        self.pressure = BackPressure(self._look, lambda: self.now_s)

    def check(self, requests: int = 1) -> int:
        """How many of these requests at the same time are refused."""
        refused = 0

        async def one() -> None:
            nonlocal refused
            try:
                await self.pressure.check(60)
            except Overloaded:
                refused += 1

        async def all_of_them() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(requests):
                    group.start_soon(one)

        anyio.run(all_of_them)
        return refused

    def _look(self) -> float:
        self.looks += 1
        if self.age_s < 0:
            raise DatabaseUnavailable("away")
        return self.age_s


@pytest.mark.parametrize(("age_s", "refused"), [(0.0, 0), (60.0, 0), (60.1, 1), (7_200.0, 1)])
def test_writes_are_refused_when_the_oldest_event_is_too_old(age_s: float, refused: int) -> None:
    assert Watch(age_s).check() == refused


def test_many_requests_share_a_look_a_second() -> None:
    watch = Watch(61)
    watch.check()
    assert watch.check(500) == 500
    assert watch.looks == 1
    watch.now_s += PERIOD_S
    watch.age_s = 0
    watch.check(500)
    assert watch.looks == 2
    assert watch.check(500) == 0


def test_the_refusal_says_for_how_long_events_wait() -> None:
    watch = Watch(75.4)
    with pytest.raises(Overloaded, match=r"waiting for 75 s .* after 60 s nothing more is taken"):
        anyio.run(watch.pressure.check, 60)


def test_a_database_that_is_away_is_the_routes_to_tell() -> None:
    watch = Watch(61)
    watch.check()
    watch.age_s, watch.now_s = -1, watch.now_s + PERIOD_S
    assert watch.check() == 0


def test_an_age_of_0_turns_it_off_and_nobody_looks() -> None:
    """As with Debezium, where nobody deletes what was sent."""
    watch = Watch(7_200)
    anyio.run(watch.pressure.check, LiveSettings(outbox_age_max_s=0).outbox_age_max_s)
    assert watch.looks == 0
