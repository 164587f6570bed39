"""A replay's znode, and which states may follow which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Conflict, Undecodable
from infra.replay_jobs import NEXT, Counts, Job, Plan, Position, State, decode_job
from tests.infra.test_replay_what import WHATS

OFFSETS = st.dictionaries(st.integers(0, 7), st.integers(0, 1 << 40))
RANGES = st.dictionaries(st.integers(0, 7), st.tuples(st.integers(0, 9), st.integers(10, 1 << 40)))
IDS = st.integers(0, (1 << 63) - 1)
JOBS = st.builds(
    Job,
    st.integers(1, 1 << 30),
    WHATS,
    st.builds(Plan, st.tuples(IDS, IDS), RANGES),
    st.integers(1, 1_000_000),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 42),
    st.integers(0, 1 << 42),
    st.sampled_from(State),
    st.text(max_size=20),
    st.builds(Position, IDS, OFFSETS),
    st.builds(Counts, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)


@given(JOBS)
def test_a_job_survives_its_znode(job: Job) -> None:
    assert decode_job(job.encode()) == job


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"id":1}', b"\xff"])
def test_what_is_no_job_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable, match="a replay's znode cannot be read"):
        decode_job(data)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("wanted", State)
def test_what_is_over_stays_so_and_what_is_refused_says_what_may_be(state: State, wanted: State) -> None:
    if wanted in NEXT[state]:
        state.check_next(wanted, 7)
        assert state.is_open
    else:
        with pytest.raises(
            Conflict, match=f"replay 7 is {state.value} and cannot become {wanted.value}: it may become"
        ):
            state.check_next(wanted, 7)
