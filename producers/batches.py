"""What callers give many of: each item is checked and answered by itself, in transactions of bounded size."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from infra.database import AUTHOR_LOCKS_MAX
from infra.errors import UseError
from producers.posting import NewTweet
from producers.rules import check_type

T = TypeVar("T")
R = TypeVar("R")


def need_all(results: Sequence[T | UseError]) -> list[T]:
    """The results of a batch in which nothing may have been refused; raises the first refusal."""
    done: list[T] = []
    for result in results:
        if isinstance(result, UseError):
            raise result
        done.append(result)
    return done


def in_batches(
    items: Iterable[T],
    check: Callable[[T], T],
    users_of: Callable[[T], Collection[int]],
    work: Callable[[Sequence[T]], Sequence[R | UseError]],
) -> list[R | UseError]:
    """A result for each item, in order; `work` gets those that the check lets through, a transaction's at once.
    Raises `InvalidInput` when these are not items."""
    items = list(check_type(items, Iterable, "what is given as many"))  # type: ignore[type-abstract]
    results: dict[int, R | UseError] = {}
    good: dict[int, T] = {}
    for place, item in enumerate(items):
        try:
            good[place] = check(item)
        except UseError as error:
            results[place] = error
    for part in parts_of(list(good), lambda place: users_of(good[place]), lambda place: name_of(good[place])):
        results.update(zip(part, work([good[place] for place in part]), strict=True))
    return [results[place] for place in range(len(items))]


def parts_of(
    items: Sequence[T], users_of: Callable[[T], Collection[int]], name_of: Callable[[T], object]
) -> Iterator[Sequence[T]]:
    """Runs of at most `AUTHOR_LOCKS_MAX` items and users, in which no idempotency key stands twice."""
    part: list[T] = []
    users_in: set[int] = set()
    names: set[object] = set()
    for item in items:
        name, users = name_of(item), set(users_of(item))
        full = len(part) == AUTHOR_LOCKS_MAX or len(users_in) + len(users - users_in) > AUTHOR_LOCKS_MAX
        if full or name in names:
            yield part
            part, users_in, names = [], set(), set()
        part.append(item)
        users_in |= users
        if name is not None:
            names.add(name)
    if part:
        yield part


def authors_of(new: NewTweet) -> Collection[int]:
    """Whose locks a post takes."""
    return (new.author_id,)


def name_of(item: object) -> object:
    """What its idempotency key is kept under; None without one."""
    return (item.author_id, item.key) if isinstance(item, NewTweet) and item.key is not None else None
