import numpy as np
import pytest

from benchmarks.graph import make_authors, make_graph, make_texts
from benchmarks.scrape import percentile


def test_a_made_graph_has_each_follow_once_and_everybody_follows_somebody() -> None:
    graph = make_graph(2_000, 30_000, np.random.default_rng(1))

    pairs = set(zip(graph.followers.tolist(), graph.authors.tolist(), strict=True))
    assert len(pairs) == 30_000
    assert all(follower != author for follower, author in pairs)
    assert set(graph.followers.tolist()) == set(range(1, 2_001))
    assert set(graph.authors.tolist()) <= set(range(1, 2_001))


def test_a_made_graph_has_a_heavy_tail() -> None:
    graph = make_graph(2_000, 30_000, np.random.default_rng(1))

    counts = np.sort(np.bincount(graph.authors))[::-1]
    assert counts[0] > 20 * np.median(counts[counts > 0])


def test_the_same_seed_makes_the_same_demo() -> None:
    made = [make_graph(500, 5_000, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(made[0].authors, made[1].authors)
    texts = [list(make_texts(20, np.random.default_rng(3))) for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(make_authors(made[0], 20, np.random.default_rng(3))) == 20


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({1.0: 0.0, 2.0: 10.0, float("inf"): 10.0}, 0.5, 1.5),
        ({1.0: 10.0, 2.0: 10.0, float("inf"): 10.0}, 0.5, 0.5),
        ({1.0: 0.0, 2.0: 0.0, float("inf"): 10.0}, 0.5, 2.0),
        ({1.0: 0.0, float("inf"): 0.0}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_a_percentile_lies_inside_its_bucket(buckets: dict[float, float], share: float, expected: float | None) -> None:
    assert percentile(buckets, share) == expected
