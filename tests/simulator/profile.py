"""How often things happen in one episode: a theme, and what the seed makes of it.

Runs in which some things never come and others all the time reach states that are rare when all come alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from infra.slots import SLOTS

AGAIN = ("replay", "redrive")  # of what was sent before; only where the theme wants it: it mends what is broken
ACTIONS = (
    *("post", "retweet", "delete", "follow", "unfollow", "block"),
    *("home", "user", "tweet", "rebuild", "renew", "copy"),
    *AGAIN,
)
COPY_FAULTS = (
    *("stop_node", "hang_node", "part", "cut_off", "freeze_api"),
    *("crash_keeper", "freeze_keeper", "join", "reweigh", "drain", "promote"),
)
FAULTS = (
    *("crash_worker", "freeze_worker", "crash_call", "freeze_call", "crash_relay", "freeze_relay"),
    *("evict", "time_out", "stop_database", "jump", "rebalance"),
    *COPY_FAULTS,
)
USERS_MAX = 5
BATCHES = (SLOTS, 300, 100)  # slots that move at a time; all that are to move are often some 300
LEFT_OUT_SHARE = 0.25  # of the things that the theme does not name


@dataclass(frozen=True, slots=True)
class Theme:
    """What episodes are about: weights beside those from 0 to 1 of everything else, and what is drawn from."""

    weights: Mapping[str, float]
    users_max: int = USERS_MAX
    slow: Sequence[float] = (0.0, 0.2, 0.5)
    actions: tuple[float, float] = (0.02, 0.15)
    faults: Sequence[float] = (0.0, 0.005, 0.02, 0.05)
    thresholds: Sequence[int] = (1, 2, 3, USERS_MAX, USERS_MAX)
    worker_paces: Sequence[float] = (1.0, 1.0, 0.3)
    step_ms: Sequence[int] = (2,)
    burst_steps_max: int = 500
    registrar_paces: Sequence[float] = (1.0,)
    late: Sequence[float] = (0.002, 0.01, 0.05)
    others: float = 1.0  # the greatest weight of what the theme does not name
    copy_faults: float = 0.1  # the same, for what is about the states of copies, beside the others
    again: float = 0.0


_FLIPS = {"follow": 3.0, "unfollow": 3.0, "post": 1.0, "delete": 1.0}
_AWAY = {"part": 9.0, "cut_off": 5.0, "time_out": 2.0, "evict": 3.0, "promote": 2.0, "stop_node": 1.0}
_GOING = {
    "stop_node": 6.0,
    "hang_node": 3.0,
    "join": 6.0,
    "crash_keeper": 6.0,
    "cut_off": 3.0,
    "reweigh": 9.0,
    "drain": 2.0,
    "promote": 9.0,
}
# A mark settles in 1.6 s. With such steps that is a hundred of them, so there are many in one burst.
_OF_COPIES: dict[str, Any] = {
    "faults": (0.03, 0.1),
    "step_ms": (20, 40),
    "burst_steps_max": 2_000,
    "others": 0.3,
    "copy_faults": 1.0,
}

THEMES: Mapping[str, Theme] = {
    "anything": Theme({"post": 1.0}, copy_faults=1.0),
    "rebuilds": Theme(
        {
            "post": 2.0,
            "rebuild": 1.0,
            "renew": 2.0,
            "delete": 3.0,
            "unfollow": 1.0,
            "follow": 1.0,
            "evict": 4.0,
        },
        users_max=3,
        slow=(0.3,),
    ),
    "rebuilds and follows": Theme(
        {**_FLIPS, "rebuild": 1.0, "renew": 1.5, "home": 1.0, "evict": 3.0},
        users_max=2,
        slow=(0.3,),
    ),
    "posts": Theme({"post": 4.0, "retweet": 1.0, "home": 1.0, "crash_worker": 4.0, "time_out": 2.0}, users_max=3),
    "follows": Theme(
        {**_FLIPS, "delete": 3.0, "home": 1.0, "crash_worker": 6.0}, users_max=2, worker_paces=(1.0, 0.2, 0.1)
    ),
    "late calls": Theme(
        {**_FLIPS, "home": 1.0, "delete": 2.0, "time_out": 9.0},
        users_max=2,
        slow=(0.0,),
        faults=(0.02, 0.05),
        others=0.2,
    ),
    "workers": Theme(
        {**_FLIPS, "home": 1.0, "delete": 2.0, "freeze_worker": 6.0, "crash_worker": 1.0, "rebalance": 1.0},
        users_max=2,
        slow=(0.0,),
        faults=(0.002, 0.005),
        others=0.2,
    ),
    "crossings": Theme(
        {"post": 2.0, "follow": 3.0, "unfollow": 3.0, "home": 6.0, "evict": 1.0},
        users_max=3,
        thresholds=(1,),
    ),
    "copies": Theme(
        {"post": 6.0, "delete": 0.3, "unfollow": 0.3, "follow": 1.0, "home": 6.0, "rebuild": 3.0, **_AWAY},
        users_max=2,
        actions=(0.05, 0.2),
        registrar_paces=(1.0, 0.3, 0.05),
        **_OF_COPIES,
    ),
    "marks": Theme(
        {"post": 6.0, "delete": 6.0, "tweet": 9.0, "home": 1.0, **_AWAY, "time_out": 9.0},
        users_max=2,
        actions=(0.1, 0.3),
        registrar_paces=(1.0, 1.0, 0.1),
        **_OF_COPIES,
    ),
    "moves": Theme(
        {"post": 4.0, "delete": 1.0, "home": 6.0, "tweet": 1.0, "rebuild": 2.0, **_GOING},
        actions=(0.05, 0.2),
        **_OF_COPIES | {"faults": (0.02, 0.05), "step_ms": (10, 20, 40)},
    ),
    "copying": Theme(
        {**_FLIPS, "post": 4.0, "copy": 8.0, "home": 1.0, "evict": 6.0, "time_out": 1.0},
        users_max=2,
        slow=(0.2, 0.4),
        faults=(0.02, 0.05),
        others=0.3,
    ),
    "replays": Theme(
        {**_FLIPS, "delete": 2.0, "home": 1.0, "evict": 1.0, "crash_worker": 2.0},
        users_max=3,
        slow=(0.0, 0.3),
        again=9.0,
    ),
    "readers": Theme(
        {"post": 2.0, "delete": 4.0, "home": 4.0, "user": 2.0, "evict": 9.0, "freeze_call": 2.0},
        users_max=2,
        slow=(0.2, 0.4),
        faults=(0.02, 0.05),
    ),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """`actions`, `faults` and `late` are shares of the steps; `slow` is a share of the calls of users."""

    users: int
    threshold: int  # followers above which an author is a celebrity
    actions: float
    faults: float
    late: float
    slow: float
    worker_pace: float
    registrar_pace: float
    burst_steps_max: int
    slots_max: int  # of one batch of a move
    step_ms: int  # so long a step takes at most; the shorter, the longer lasts a settled mark
    weights: Mapping[str, float] = field(default_factory=dict)


def drawn(rng: Random, name: str | None = None) -> Profile:
    """A random one."""
    theme = THEMES[name or rng.choice(list(THEMES))]
    others = {
        one: 0.0 if rng.random() < LEFT_OUT_SHARE else theme.others * rng.random()
        for one in (*ACTIONS[: -len(AGAIN)], *FAULTS)
    }
    others |= {one: theme.copy_faults * others[one] for one in COPY_FAULTS}
    others |= {one: theme.again * rng.random() if theme.again else 0.0 for one in AGAIN}
    return Profile(
        users=rng.randint(2, theme.users_max),
        threshold=rng.choice(theme.thresholds),
        actions=rng.uniform(*theme.actions),
        faults=rng.choice(theme.faults),
        late=rng.choice(theme.late),
        slow=rng.choice(theme.slow),
        worker_pace=rng.choice(theme.worker_paces),
        burst_steps_max=theme.burst_steps_max,
        slots_max=rng.choice(BATCHES),
        step_ms=rng.choice(theme.step_ms),
        registrar_pace=rng.choice(theme.registrar_paces),
        weights={**others, **theme.weights},
    )
