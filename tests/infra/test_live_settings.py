"""What live settings may be, and the versions that changes make of them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.errors import InvalidInput, Undecodable
from infra.live_settings import (
    SETTINGS,
    LiveSettings,
    decode_live_settings,
    encode_live_settings,
    next_versions,
)
from infra.live_settings_commands import SET_HELP, parse_changes
from infra.settings_history import VERSIONS_MAX, Change, Origin, decode_version, encode_version, entries_of

ME = Origin("me@here", datetime(2026, 11, 26, 12, tzinfo=UTC))


def stored(**others: Any) -> dict[str, Any]:
    """What is in ZooKeeper as version 7."""
    return dict(json.loads(encode_live_settings(LiveSettings(version=7)))) | others


@pytest.mark.parametrize("name", SETTINGS)
def test_a_live_setting_outside_its_range_is_refused(name: str) -> None:
    low, high = SETTINGS[name].low, SETTINGS[name].high
    for value in (low - 1, high + 1, True, "800", 800.0, None):
        with pytest.raises(InvalidInput, match=f"live setting {name} is {value!r}, but must be a whole number from "):
            LiveSettings(**{name: value})  # type: ignore[arg-type]
    assert getattr(LiveSettings(**{name: low}), name) == low
    assert getattr(LiveSettings(**{name: high}), name) == high


@pytest.mark.parametrize("name", SETTINGS)
def test_every_live_setting_has_a_unit_a_meaning_and_a_line_in_the_help(name: str) -> None:
    setting = SETTINGS[name]
    assert setting.unit
    assert len(setting.meaning.split()) >= 4
    assert f"{name}: {setting.low:,} to {setting.high:,} {setting.unit}; {setting.meaning}." in SET_HELP
    assert getattr(LiveSettings(), name) == setting.default


def test_settings_are_read_as_they_were_written_and_keys_of_later_versions_ignored() -> None:
    settings = LiveSettings(threshold=5, version=3)
    data = encode_live_settings(settings).replace(b"{", b'{"later": 1, ', 1)

    assert (decode_live_settings(data), decode_live_settings(data).version) == (settings, 3)


def test_what_an_earlier_release_wrote_is_version_0_with_defaults_for_what_is_new() -> None:
    settings = decode_live_settings(b'{"threshold": 5}')

    assert (settings, settings.version) == (LiveSettings(threshold=5), 0)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"5", b"null", b"[" * 100_000, b'{"version": true}', b'{"version": "1"}', b'{"version": -1}'],
)
def test_what_is_no_object_with_a_version_is_one_sentence(data: bytes) -> None:
    with pytest.raises(Undecodable, match=r"live settings in ZooKeeper cannot be read: .* `fanfold config rollback`"):
        decode_live_settings(data)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["threshold=5"], {"threshold": 5}),
        (["threshold", "5"], {"threshold": 5}),
        (["threshold=5", "rate_per_token=0"], {"threshold": 5, "rate_per_token": 0}),
    ],
)
def test_a_change_is_written_with_or_without_an_equals_sign(words: list[str], changes: Mapping[str, int]) -> None:
    assert parse_changes(words) == changes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["thresold=5"], "'thresold' is no live setting; they are threshold, timeline_entries, "),
        (["api_port", "80"], "`fanfold config show` has process settings"),
        (["version=3"], "'version' is no live setting"),
        (["=5"], "'' is no live setting"),
        (["threshold"], "'threshold' is no NAME=VALUE"),
        (["threshold=5", "800"], "'800' is no NAME=VALUE"),
        (["threshold=5", "threshold=6"], "threshold stands there twice"),
        (["threshold="], "threshold is '', but must be a whole number from 1 to 100,000 (followers)"),
        (["threshold=many"], "threshold is 'many', but must be a whole number"),
        (["threshold=5.0"], "threshold is '5.0', but must"),
        (["threshold=1_000"], "threshold is '1_000', but must"),
        (["threshold=٥"], "threshold is '٥', but must"),
        (["threshold", "-1"], "threshold is -1, but must"),
        (["threshold=" + "9" * 5_000], "but must be a whole number"),
        (
            ["threshold=5", "leave_after_s=4"],
            "leave_after_s is 4, but must be a whole number from 5 to 86,400 (seconds)",
        ),
    ],
)
def test_a_bad_change_is_one_sentence_with_name_value_and_rule(words: list[str], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_changes(words)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_change_is_the_next_version_with_who_when_and_what() -> None:
    (version,) = next_versions(stored(), {"threshold": 5, "rate_per_token": 200}, [6, 7], ME)

    assert (version.version, version.by, version.at) == (8, "me@here", "2026-11-26T12:00:00+00:00")
    assert version.changes == (Change("threshold", 10_000, 5),)
    assert version.values == {name: 5 if name == "threshold" else one.default for name, one in SETTINGS.items()}
    assert decode_version(encode_version(version)) == version


def test_what_changes_nothing_is_no_version() -> None:
    assert next_versions(stored(), {"threshold": 10_000}, [7], ME) == []


def test_a_key_that_a_newer_release_wrote_stays() -> None:
    (version,) = next_versions(stored(later=1), {"threshold": 5}, [7], ME)

    assert version.values["later"] == 1


def test_a_version_number_is_never_used_again() -> None:
    """The settings were deleted, and their history was not."""
    (version,) = next_versions(None, {}, [6, 7], ME)

    assert version.version == 8


def test_what_has_no_entry_in_the_history_gets_one_when_it_is_changed() -> None:
    new, old = next_versions({"threshold": 5}, {"threshold": 6}, [], ME)

    assert (new.version, new.values["threshold"]) == (1, 6)
    assert (old.version, old.by, old.values["threshold"]) == (0, "unknown", 5)


def test_a_value_that_was_in_an_older_range_has_to_be_mended_by_the_change() -> None:
    with pytest.raises(InvalidInput, match="leave_after_s is 1"):
        next_versions(stored(leave_after_s=1), {"threshold": 5}, [7], ME)

    assert next_versions(stored(leave_after_s=1), {"leave_after_s": 5}, [7], ME)


@pytest.mark.parametrize(("kept", "removed"), [(VERSIONS_MAX - 1, 0), (VERSIONS_MAX, 1), (VERSIONS_MAX + 3, 4)])
def test_the_history_keeps_a_bounded_number_of_versions(kept: int, removed: int) -> None:
    versions = next_versions(stored(version=kept), {"threshold": 5}, range(1, kept + 1), ME)

    written = entries_of(versions, range(1, kept + 1))

    gone = [path for path, (data, _) in written.items() if data is None]
    assert [path[-4:] for path in gone] == [f"{number:04d}" for number in range(1, removed + 1)]
    assert len(written) == len(gone) + 1
    assert kept + 1 - len(gone) <= VERSIONS_MAX
