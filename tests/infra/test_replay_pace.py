"""How fast a replay sends, against agents in memory with a clock of the test's own."""

from collections import deque
from dataclasses import dataclass, field
from random import Random

import pytest

from infra.replay_pace import REMEMBERED_S, SHARE_FIRST, SHARE_MAX, STALLED_S, TARGET_S, Pace, Window
from tests.clock import Clock

STEP_S = 0.005
ROUND_S = 0.03  # of fan_out, which says at its end how far it is


@dataclass
class Agents:
    """One partition of each log. The agents work off so many events a second; `live` is live activity that waits."""

    clock: Clock
    per_s: float
    sent: int = 0
    done: float = 0.0
    way_s: float = 0.0  # from when it is worked off until it is known,
    lucky: float = 0.0  # but for this share of the times
    known: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)]))
    committed: int = 0
    commits_at_s: float = 0.0
    live: deque[tuple[float, int]] = field(default_factory=deque)
    waits_s: list[float] = field(default_factory=list)
    rng: Random = field(default_factory=lambda: Random(1))

    def step(self) -> None:
        self.clock.now_s += STEP_S
        self.done = min(self.done + self.per_s * STEP_S, self.sent)
        if self.clock.now_s >= self.commits_at_s:
            way_s = 0.0 if self.rng.random() < self.lucky else self.way_s
            self.known.append((self.clock.now_s + way_s, int(self.done)))
            self.commits_at_s = self.clock.now_s + ROUND_S
        while self.known and self.known[0][0] <= self.clock.now_s:
            self.committed = self.known.popleft()[1]
        while self.live and self.live[0][1] <= self.done:
            self.waits_s.append(self.clock.now_s - self.live.popleft()[0])

    def post(self) -> None:
        """A live event, behind whatever was sent."""
        self.sent += 1
        self.live.append((self.clock.now_s, self.sent))

    def fanned_out(self) -> dict[int, int]:
        return {0: self.committed}

    def delivery_ends(self) -> dict[int, int]:
        return {0: self.sent}

    def delivered(self) -> dict[int, int]:
        return {0: int(self.done)}


def run(agents: Agents, pace: Pace, seconds: float, live_every_s: float = 0.1) -> int:
    """Sends as a replay does, with live events beside; how many it sent."""
    sent, until_s, next_live_s, ready_s = 0, agents.clock.now_s + seconds, 0.0, 0.0
    while agents.clock.now_s < until_s:
        agents.step()
        if agents.clock.now_s >= next_live_s:
            next_live_s = agents.clock.now_s + live_every_s
            agents.post()
        if agents.clock.now_s >= ready_s:
            wait_s = pace.wait_s()
            ready_s = agents.clock.now_s + wait_s
            if not wait_s:
                share = pace.share
                agents.sent += share
                pace.sent(share, {0: agents.sent})
                sent += share
    return sent


@pytest.mark.parametrize("per_s", [200, 3_000, 30_000])
def test_a_replay_takes_what_the_agents_have_left_and_live_events_wait_for_one_share_at_worst(per_s: int) -> None:
    clock = Clock()
    agents = Agents(clock, per_s)
    pace = Pace(lambda: 1_000_000, Window(agents), clock)
    run(agents, pace, 5.0)
    agents.waits_s.clear()

    sent = run(agents, pace, 20.0)

    assert max(agents.waits_s) < TARGET_S * 1.5
    assert sorted(agents.waits_s)[len(agents.waits_s) // 2] < TARGET_S
    assert sent > per_s * 20.0 * 0.7


@pytest.mark.parametrize("lucky", [0.0, 0.02])
def test_a_way_that_takes_longer_than_the_target_anyway_does_not_make_it_crawl(lucky: float) -> None:
    clock = Clock()
    agents = Agents(clock, 3_000, way_s=0.4, lucky=lucky)
    pace = Pace(lambda: 1_000_000, Window(agents), clock)
    run(agents, pace, 20.0)

    assert run(agents, pace, 100.0) > 3_000 * 100.0 * 0.15  # at the smallest share it would be a hundredth


def test_that_the_way_became_shorter_is_noticed() -> None:
    clock = Clock()
    agents = Agents(clock, 3_000, way_s=0.6)
    pace = Pace(lambda: 1_000_000, Window(agents), clock)
    run(agents, pace, 30.0)
    agents.way_s = 0.0
    run(agents, pace, 2 * REMEMBERED_S)
    agents.waits_s.clear()

    run(agents, pace, 20.0)

    assert max(agents.waits_s) < TARGET_S * 2


def test_where_live_events_may_wait_longer_shares_are_larger() -> None:
    shares = {}
    for target_s in (TARGET_S, 10 * TARGET_S):
        clock = Clock()
        agents = Agents(clock, 3_000)
        pace = Pace(lambda: 1_000_000, Window(agents, target_s), clock)
        run(agents, pace, 60.0)
        shares[target_s] = pace.share
    assert shares[10 * TARGET_S] > 3 * shares[TARGET_S]


def test_shares_with_little_in_them_do_not_let_the_next_ones_grow() -> None:
    """As where only a few authors' events are meant, or a page ends."""
    clock = Clock()
    agents = Agents(clock, 3_000)
    window = Window(agents)
    for _ in range(20):
        agents.sent += 2
        window.sent(2, {0: agents.sent}, clock.now_s)
        while not window.is_open(clock.now_s):
            agents.step()

    assert window.share == SHARE_FIRST


def test_its_rate_is_never_exceeded() -> None:
    clock = Clock()
    agents = Agents(clock, 1e6)
    pace = Pace(lambda: 500, Window(agents), clock)

    assert 0.9 * 5_000 < run(agents, pace, 10.0) <= 5_000 + 2 * 500


def test_it_waits_while_nothing_is_applied() -> None:
    clock = Clock()
    agents = Agents(clock, 0)

    window = Window(agents)
    sent = run(agents, Pace(lambda: 1_000_000, window, clock), STALLED_S / 2)

    assert sent == SHARE_FIRST
    assert not window.is_open(clock.now_s)


@pytest.mark.parametrize(("markers", "after_s", "is_over"), [(1, 0.0, True), (9, 0.0, False), (9, STALLED_S, True)])
def test_markers_behind_the_last_message_count_as_nothing(markers: int, after_s: float, is_over: bool) -> None:
    clock = Clock()
    agents = Agents(clock, 0, sent=100 + markers, done=100, committed=100)
    window = Window(agents)
    window.sent(100, {0: 100}, clock.now_s)
    looks = [window.is_open(clock.now_s + at_s) for at_s in (0.0, after_s, 2 * after_s)]

    assert looks[-1] is is_over


def test_without_agents_only_the_rate_counts() -> None:
    clock = Clock()
    pace = Pace(lambda: 1_000_000, None, clock)

    assert pace.share == SHARE_MAX
    pace.sent(500_000, {})
    assert pace.wait_s() == pytest.approx(0.5)
    clock.now_s += 10.0
    assert pace.wait_s() == 0.0
    pace.sent(1_500_000, {})
    assert pace.wait_s() == pytest.approx(0.5)  # of what it did not take a second's worth is left
