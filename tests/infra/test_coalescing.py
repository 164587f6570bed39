"""Callers who miss the same thing at the same time."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra import coalescing
from infra.coalescing import Coalescing
from tests.waiting import wait_until


def test_one_fills_and_the_others_wait_for_him() -> None:
    filling, go_on, filled = Coalescing[int](), threading.Event(), list[Sequence[int]]()

    def work(keys: Sequence[int]) -> None:
        go_on.wait(10)
        filled.append(keys)

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(filling.fill, "home", [1, 2], work)
        wait_until(lambda: len(filling._under_way) == 2)
        others = [threads.submit(filling.fill, "home", keys, filled.append) for keys in ([1], [2, 1], [2, 3])]
        wait_until(lambda: [3] in filled, "who misses more does that at once")
        assert not any(one.done() for one in others)
        go_on.set()

        assert (list(first.result()), [list(one.result()) for one in others]) == ([], [[1], [2, 1], [2]])
    assert sorted(map(list, filled)) == [[1, 2], [3]]
    assert filling._under_way == {}


def test_the_same_id_of_another_kind_is_another_thing() -> None:
    filling, filled = Coalescing[int](), list[str]()

    def work(_: Sequence[int]) -> None:
        filled.append("home")
        filling.fill("user", [1], lambda _: filled.append("user"))

    assert filling.fill("home", [1, 1], work) == []
    assert filled == ["home", "user"]


def test_a_failure_is_its_own_callers_and_the_key_is_free_again() -> None:
    filling = Coalescing[int]()

    def fail(_: Sequence[int]) -> None:
        raise ValueError("it failed")

    with pytest.raises(ValueError, match="it failed"):
        filling.fill("home", [1], fail)
    assert filling.fill("home", [1], lambda _: None) == []


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalescing, "WAIT_S_MAX", 0.01)
    filling, go_on = Coalescing[int](), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(filling.fill, "home", [1], lambda _: go_on.wait(10))  # type: ignore[arg-type]
        wait_until(lambda: len(filling._under_way) == 1)
        assert filling.fill("home", [1], lambda _: None) == [1]
        go_on.set()
        first.result()
