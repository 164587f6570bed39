import pytest

from infra import trace

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
OTHER = f"00-{TRACE[::-1]}-00"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (f"00-{TRACE}-01", f"00-{TRACE}-01"),
        (f"00-{TRACE}-00", f"00-{TRACE}-00"),
        (f"00-{TRACE}-ff", f"00-{TRACE}-ff"),
        (f"cc-{TRACE}-01", f"00-{TRACE}-01"),
        (f"cc-{TRACE}-03-what-comes-later", f"00-{TRACE}-01"),
        (f"cc-{TRACE}-02-", f"00-{TRACE}-00"),
    ],
)
def test_a_traceparent_of_any_version_is_taken_as_version_00(given: str, taken: str) -> None:
    assert trace.parse(given) == taken


@pytest.mark.parametrize(
    "given",
    [
        "",
        f"00-{TRACE}",
        f"00-{TRACE}-1",
        f"00-{TRACE}-01-more",
        f"00-{TRACE}-01\n",
        f"00-{TRACE}-01 ",
        f"00-{TRACE.upper()}-01",
        f"ff-{TRACE}-01",
        f"cc-{TRACE}-01more",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        f"00-{TRACE.replace('-', '_')}-01",
        f"00-{TRACE}-0٣",
        "0" * 100_000,
    ],
)
def test_a_malformed_traceparent_is_ignored(given: str) -> None:
    assert trace.parse(given) is None


def test_a_call_has_the_innermost_trace_and_none_outside() -> None:
    with trace.within(OTHER):
        with trace.within(None):
            assert trace.current() is None
        assert trace.current() == OTHER
    assert trace.current() is None
