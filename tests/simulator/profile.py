"""How often things happen in one episode: a theme, and what the seed makes of it.

Runs in which some things never come and others all the time reach states that are rare when all come alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

ACTIONS = ("post", "retweet", "delete", "follow", "unfollow", "block", "home", "user", "rebuild", "renew")
FAULTS = (
    *("crash_worker", "freeze_worker", "crash_call", "freeze_call", "crash_relay", "freeze_relay"),
    *("stop_node", "stop_database", "evict", "jump", "time_out", "rebalance"),
)
USERS_MAX = 5
LEFT_OUT_SHARE = 0.25  # of the things that the theme does not name


@dataclass(frozen=True, slots=True)
class Theme:
    """What episodes are about: weights beside those from 0 to 1 of everything else, and what is drawn from."""

    weights: Mapping[str, float]
    users_max: int = USERS_MAX
    slow: Sequence[float] = (0.0, 0.2, 0.5)
    faults: Sequence[float] = (0.0, 0.005, 0.02, 0.05)
    thresholds: Sequence[int] = (1, 2, 3, USERS_MAX, USERS_MAX)
    worker_paces: Sequence[float] = (1.0, 1.0, 0.3)


_FLIPS = {"follow": 3.0, "unfollow": 3.0, "post": 1.0, "delete": 1.0}

THEMES: Mapping[str, Theme] = {
    "anything": Theme({"post": 1.0}),
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
        {**_FLIPS, "home": 1.0, "delete": 2.0, "time_out": 9.0}, users_max=2, slow=(0.0,), faults=(0.05,)
    ),
    "workers": Theme(
        {**_FLIPS, "home": 1.0, "delete": 2.0, "freeze_worker": 6.0, "crash_worker": 1.0, "rebalance": 1.0},
        users_max=2,
        slow=(0.0,),
        faults=(0.002, 0.005),
    ),
    "crossings": Theme(
        {"post": 2.0, "follow": 3.0, "unfollow": 3.0, "home": 6.0, "evict": 1.0},
        users_max=3,
        thresholds=(1,),
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
    weights: Mapping[str, float] = field(default_factory=dict)


def drawn(rng: Random, name: str | None = None) -> Profile:
    """A random one."""
    theme = THEMES[name or rng.choice(list(THEMES))]
    others = {name: 0.0 if rng.random() < LEFT_OUT_SHARE else rng.random() for name in (*ACTIONS, *FAULTS)}
    return Profile(
        users=rng.randint(2, theme.users_max),
        threshold=rng.choice(theme.thresholds),
        actions=rng.uniform(0.02, 0.15),
        faults=rng.choice(theme.faults),
        late=rng.choice((0.002, 0.01, 0.05)),
        slow=rng.choice(theme.slow),
        worker_pace=rng.choice(theme.worker_paces),
        weights={**others, **theme.weights},
    )
