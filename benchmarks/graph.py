"""A made-up social graph with a heavy tail, and what its users say. Pure and seeded: the same seed, the same graph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

WEIGHT_SHIFT = 12.0  # flattens the head: the most followed author has a third of all users, not all of them
WEIGHT_POWER = 1.05
FOLLOWEES_SIGMA = 0.6  # of the log-normal number of authors whom a user follows

OPENINGS = ("Good morning", "Hot take", "Reading", "Just landed", "Still thinking about", "Today I learned", "Mood")
SUBJECTS = ("the new timeline", "slow coffee", "fast queues", "a red bicycle", "rain in July", "old maps", "jazz")
ENDINGS = ("and it shows.", "again.", "– who else?", "🙂", "for the third time.", "with friends.", "#nofilter")


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Follows as two arrays of user ids, each pair once; users are 1 to `users`."""

    users: int
    followers: npt.NDArray[np.int64]
    authors: npt.NDArray[np.int64]


def make_graph(users: int, follows: int, rng: np.random.Generator) -> Graph:
    """A graph of exactly `follows` follows in which everybody follows somebody."""
    weights = (np.arange(users) + WEIGHT_SHIFT) ** -WEIGHT_POWER
    cumulative = np.cumsum(weights / weights.sum())
    appetite = rng.lognormal(sigma=FOLLOWEES_SIGMA, size=users)
    pairs = _pairs(np.arange(1, users + 1), _authors(cumulative, users, rng), users)
    while len(pairs) < follows:
        wanted = int((follows - len(pairs)) * 1.3) + 100
        who = rng.choice(users, size=wanted, p=appetite / appetite.sum()) + 1
        fresh = np.setdiff1d(_pairs(who, _authors(cumulative, wanted, rng), users), pairs)
        room = follows - len(pairs)
        pairs = np.concatenate((pairs, rng.permutation(fresh)[:room]))
    pairs.sort()
    return Graph(users, pairs // (users + 1), pairs % (users + 1))


def write_follows(graph: Graph, path: Path) -> None:
    """The graph as the importer reads it: follower, tab, author."""
    lines = (f"{follower}\t{author}\n" for follower, author in zip(graph.followers, graph.authors, strict=True))
    with path.open("w", encoding="utf-8") as file:
        file.write("follower\tauthor\n")
        file.writelines(lines)


def make_authors(graph: Graph, tweets: int, rng: np.random.Generator) -> Sequence[int]:
    """Who posts, in order: in proportion to followers, as the busiest accounts are the best known."""
    return [int(author) for author in rng.choice(graph.authors, size=tweets)]


def make_texts(tweets: int, rng: np.random.Generator) -> Iterator[str]:
    """What they say."""
    for opening, subject, ending in rng.integers(0, len(OPENINGS), size=(tweets, 3)):
        yield f"{OPENINGS[opening]}: {SUBJECTS[subject]} {ENDINGS[ending]}"


def _authors(cumulative: npt.NDArray[np.float64], size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.minimum(np.searchsorted(cumulative, rng.random(size)), len(cumulative) - 1) + 1


def _pairs(followers: npt.NDArray[np.int64], authors: npt.NDArray[np.int64], users: int) -> npt.NDArray[np.int64]:
    """Each pair once, as follower * (users + 1) + author; nobody follows himself: he takes the next author."""
    authors = np.where(authors == followers, authors % users + 1, authors)
    return np.unique(followers * (users + 1) + authors)
