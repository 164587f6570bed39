"""Positions of streams of activity: what they bring back, and where a stream begins by them."""

import pytest

from consumers import activity_position
from consumers.activity_position import gap, parse_position, position_text, start_of
from consumers.live_frames import Reason
from infra.errors import InvalidInput
from infra.log_reader import ACTIVITY_LOGS, Bounds

CUT = {log: 10 + number for number, log in enumerate(ACTIVITY_LOGS)}
BOUNDS = Bounds("0123abcd", dict.fromkeys(ACTIVITY_LOGS, 5), dict.fromkeys(ACTIVITY_LOGS, 50), {})


def test_an_id_brings_the_position_back() -> None:
    text = position_text("0123abcd", CUT)
    assert text == "1-0123abcd-10.11.12.13.14.15.16.17"
    assert parse_position(text) == ("0123abcd", CUT)


@pytest.mark.parametrize(
    "text", ["", "1", "1-0123abcd-1.2", "1-0123abcd-1.2.3.4.5.6.7.8.9", "1-0123abcd-١.2.3.4.5.6.7.8"]
)
def test_another_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="must be the id of an event that this stream sent"):
        parse_position(text)


def test_without_a_position_it_begins_now_and_with_one_there() -> None:
    assert start_of(None, BOUNDS) == (BOUNDS.ends, None)
    assert start_of(("0123abcd", CUT), BOUNDS) == (CUT, None)


@pytest.mark.parametrize(
    ("incarnation", "offset", "reason"),
    [
        ("ffffffff", 10, Reason.POSITION_UNKNOWN),
        ("0123abcd", 51, Reason.POSITION_UNKNOWN),
        ("0123abcd", 4, Reason.POSITION_EXPIRED),
        ("0123abcd", 20, Reason.POSITION_TOO_FAR),
    ],
)
def test_what_cannot_be_told_is_said_and_it_begins_now(
    monkeypatch: pytest.MonkeyPatch, incarnation: str, offset: int, reason: Reason
) -> None:
    monkeypatch.setattr(activity_position, "RESUME_OFFSETS_MAX", 40 if reason is not Reason.POSITION_TOO_FAR else 29)
    cut = dict.fromkeys(ACTIVITY_LOGS, 21) | {ACTIVITY_LOGS[3]: offset}
    assert start_of((incarnation, cut), BOUNDS) == (BOUNDS.ends, reason)
    assert gap(reason).startswith(b'event: gap\ndata: {"reason": "' + reason.encode())
