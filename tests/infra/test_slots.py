import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infra.slots import SLOTS, slot_of, slots_of

IDS = st.integers(min_value=0, max_value=(1 << 63) - 1)


@given(st.lists(IDS, min_size=1))
def test_an_array_of_ids_has_the_same_slots_as_each_id(ids: list[int]) -> None:
    assert slots_of(np.array(ids, dtype=np.uint64)).tolist() == [slot_of(one) for one in ids]


@given(st.lists(IDS, min_size=1))
def test_big_endian_ids_have_the_same_slots(ids: list[int]) -> None:
    assert slots_of(np.array(ids, dtype=">u8")).tolist() == [slot_of(one) for one in ids]


def test_slots_of_known_ids_never_change() -> None:
    assert [slot_of(one) for one in (1, 2, 298960, 10**18)] == [986, 352, 132, 221]


def test_ids_spread_over_all_slots() -> None:
    counts = np.bincount(slots_of(np.arange(100_000, dtype=np.uint64)), minlength=SLOTS)
    assert counts.min() > 50
    assert counts.max() < 150
