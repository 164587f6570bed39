"""The history of the live settings in ZooKeeper: one znode for each of the last hundred versions.

live_settings.py writes an entry in one transaction with the version that it tells of.
"""

import json
import os
import pwd
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from infra.errors import NotFound, Undecodable
from infra.zookeeper import LIVE_SETTINGS_HISTORY_PATH, ZooKeeper

VERSIONS_MAX = 100  # each below 2 kB, and read one by one
SHOWN_MAX = 80  # bytes of an entry that cannot be read


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one setting. `old` is what was stored, which somebody may have written by hand."""

    name: str
    old: Any
    new: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Who changes something, and when."""

    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """What was in force from `at` on (ISO 8601), by whom, and what he changed.

    `rollback_to` is the version whose values came back, if that was the change.
    """

    version: int
    at: str
    by: str
    changes: tuple[Change, ...]
    values: Mapping[str, Any]
    rollback_to: int | None = None


def origin() -> Origin:
    """This user on this host, now."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container with a user id of its own
        user = str(os.getuid())
    return Origin(f"{user}@{socket.gethostname()}", datetime.now(UTC))


def encode_version(version: Version) -> bytes:
    """The bytes of an entry."""
    return json.dumps(asdict(version), sort_keys=True).encode()


def decode_version(data: bytes) -> Version:
    """The inverse. Raises `Undecodable`."""
    try:
        entry = json.loads(data)
        return Version(**{**entry, "changes": tuple(Change(**one) for one in entry["changes"])})
    except (ValueError, TypeError, KeyError):
        raise Undecodable(
            f"an entry in {LIVE_SETTINGS_HISTORY_PATH} of ZooKeeper cannot be read: it begins with {data[:SHOWN_MAX]!r}"
        ) from None


def versions_kept(zookeeper: ZooKeeper) -> list[int]:
    """Their numbers, ascending."""
    return [int(name) for name in zookeeper.children(LIVE_SETTINGS_HISTORY_PATH) if name.isdigit()]


def read_version(zookeeper: ZooKeeper, version: int) -> Version:
    """One entry. Raises `NotFound`, which says which versions there are."""
    found = zookeeper.read(_path(version))
    if found is None:
        kept = versions_kept(zookeeper)
        which = f"those kept are {kept[0]} to {kept[-1]}" if kept else "none is stored yet"
        raise NotFound(f"there is no version {version} of the live settings: {which}")
    return decode_version(found[0])


def read_history(zookeeper: ZooKeeper) -> list[Version]:
    """All entries, the newest first."""
    found = [zookeeper.read(_path(version)) for version in reversed(versions_kept(zookeeper))]
    return [decode_version(one[0]) for one in found if one is not None]  # one may have gone since its name was read


def entries_of(versions: Sequence[Version], kept: Sequence[int]) -> dict[str, tuple[bytes | None, None]]:
    """What to write for new versions, and without bytes the oldest ones, which go: at most `VERSIONS_MAX` are left."""
    too_many = max(0, len(kept) + len(versions) - VERSIONS_MAX)
    written: dict[str, tuple[bytes | None, None]] = {_path(version): (None, None) for version in kept[:too_many]}
    return written | {_path(one.version): (encode_version(one), None) for one in versions}


def _path(version: int) -> str:
    return f"{LIVE_SETTINGS_HISTORY_PATH}/{version:010d}"
