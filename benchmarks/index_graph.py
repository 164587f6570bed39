"""A large made-up graph of follows, a slice of followers at a time: the heavy tail of graph.py without its memory.

Pure and seeded. User ids have 19 digits and say nothing about how well known their user is.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.graph import WEIGHT_POWER, WEIGHT_SHIFT
from infra.slots import Ids

FIRST_ID = 10**18
ID_STEP = 4_096_000  # snowflakes of one node, a second apart
SLICE_USERS = 50_000

Numbers = npt.NDArray[np.int64]


def user_ids(users: int, seed: int) -> Ids:
    """Their ids, the best known first."""
    order = np.random.default_rng(seed).permutation(users).astype(np.uint64)
    return order * np.uint64(ID_STEP) + np.uint64(FIRST_ID)


def make_follows(users: int, follows: int, seed: int) -> Iterator[tuple[Ids, Ids]]:
    """(followers, authors) slice after slice: `follows` pairs in all, each once, and nobody follows himself."""
    rng, ids = np.random.default_rng((seed, 1)), user_ids(users, seed)
    for first in range(0, users, SLICE_USERS):
        last = min(first + SLICE_USERS, users)
        count = follows * last // users - follows * first // users
        pairs = _pairs(users, first, last, count, rng)
        yield ids[pairs // users], ids[pairs % users]


def _pairs(users: int, first: int, last: int, count: int, rng: np.random.Generator) -> Numbers:
    """follower × users + author, of followers from `first` up to `last`."""
    pairs: Numbers = np.empty(0, dtype=np.int64)
    while len(pairs) < count:
        size = (count - len(pairs)) * 5 // 4 + 100
        followers, authors = rng.integers(first, last, size), _authors(users, rng.random(size))
        drawn = (followers * users + authors)[followers != authors]
        pairs = np.unique(np.concatenate((pairs, drawn)))
    kept: Numbers = np.sort(rng.permutation(pairs)[:count])
    return kept


def _authors(users: int, uniform: npt.NDArray[np.float64]) -> Numbers:
    """Draws authors with weights (number + shift) ** -power, by the inverse of their distribution."""
    power = 1 - WEIGHT_POWER
    low, high = WEIGHT_SHIFT**power, (users + WEIGHT_SHIFT) ** power
    drawn = (low + uniform * (high - low)) ** (1 / power) - WEIGHT_SHIFT
    authors: Numbers = drawn.astype(np.int64)
    return np.minimum(authors, users - 1)
