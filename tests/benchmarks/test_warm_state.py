"""The state that benchmarks start from: who follows whom, and what does not fit is refused."""

import numpy as np
import pytest

from benchmarks.warm_state import FOLLOWS_EACH, Shape, make_audience, refuse_too_large
from infra.errors import StackError


@pytest.mark.parametrize("first", [1, 1_000])
def test_everybody_follows_the_same_number_of_others(first: int) -> None:
    shape = Shape(timelines=2_000, entries=80, fan_out=100)

    audience = make_audience(shape, first, np.random.default_rng(7))

    followers = [audience.of(author).tolist() for author in range(first, first + audience.authors)]
    assert audience.authors == shape.authors == 320
    assert all(len(set(of_author)) == len(of_author) for of_author in followers)
    assert all(author not in of_author for author, of_author in enumerate(followers, start=first))
    follows = np.bincount(np.concatenate(followers) - first, minlength=shape.timelines)
    assert follows.tolist() == [FOLLOWS_EACH] * shape.timelines
    assert np.mean([len(of_author) for of_author in followers]) == shape.fan_out
    assert max(map(len, followers)) > 3 * shape.fan_out, "the tail is not heavy"


def test_each_author_posts_equally_often_so_that_the_mean_fan_out_is_the_stated_one() -> None:
    audience = make_audience(Shape(2_000, 80, 100), 1, np.random.default_rng(7))

    authors = audience.some_authors(3 * audience.authors, np.random.default_rng(8))

    assert np.bincount(authors)[1:].tolist() == [3] * audience.authors
    assert audience.some_authors(10, np.random.default_rng(8)) != list(range(1, 11))


def test_a_history_fills_the_stated_number_of_entries() -> None:
    assert [Shape(100, entries, 10).history for entries in (1, 16, 17, 400, 800)] == [1, 1, 2, 25, 50]


GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "disk", "lacking"), [(100 * GIB, 100 * GIB, None), (GIB, 100 * GIB, "memory"), (100 * GIB, 1, "disk")]
)
def test_a_state_that_does_not_fit_is_refused_with_the_figures(memory: int, disk: int, lacking: str | None) -> None:
    shape = Shape(50_000, 800, 300)
    if lacking is None:
        refuse_too_large(shape, 20_000, memory, disk)
        return

    with pytest.raises(StackError, match=rf"50,000 timelines of 800 entries.* of {lacking}, and .* MiB are free"):
        refuse_too_large(shape, 20_000, memory, disk)
