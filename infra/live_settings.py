"""Live settings: kept in ZooKeeper, checked before they are stored, in force in every process within 5 s.

A change is a new version, written in one transaction with its entry of the history, and only if the version that it
was made from is still in force: of two at the same time both take effect. Next: settings_history.py. Process settings
(addresses, ports, logs) come from the environment instead: settings.py. No key exists in both.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from infra import metrics
from infra.errors import Conflict, InvalidInput, NotFound, Undecodable, ZooKeeperUnavailable
from infra.settings_history import Change, Origin, Version, entries_of, origin, read_version, versions_kept
from infra.znodes import Remove, written
from infra.zookeeper import LIVE_SETTINGS_HISTORY_PATH, LIVE_SETTINGS_PATH, Watched, ZooKeeper

DAY_S = 86_400
TRIES_MAX = 100  # of a change: each time somebody else's went ahead, and so many at once would be a fault
UNKNOWN = "unknown"  # who wrote a version that has no entry in the history
VERSION_KEY = "version"
SHOWN_MAX = 40  # characters of a value that nobody can read


@dataclass(frozen=True, slots=True)
class Setting:
    """One live setting, which is a whole number: its inclusive range, its unit and what it decides."""

    name: str
    default: int
    low: int
    high: int
    unit: str
    meaning: str

    def check(self, value: object) -> int:
        """The value. Raises `InvalidInput` when it breaks the rule."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            rule = f"must be a whole number from {self.low:,} to {self.high:,} ({self.unit})"
            raise InvalidInput(f"live setting {self.name} is {value!r}, but {rule}")
        return value

    def parse(self, text: str) -> int:
        """The value that somebody typed. Raises `InvalidInput`."""
        return self.check(int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else text[:SHOWN_MAX])


def _setting(default: int, low: int, high: int, unit: str, meaning: str) -> Any:
    return field(default=default, metadata={"row": (default, low, high, unit, meaning)})


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """All live settings. Each line is default, lowest and highest value, unit and meaning; help texts come from here.

    Raises `InvalidInput` for a value out of its range.
    """

    threshold: int = _setting(10_000, 1, 100_000, "followers", "an author who has more becomes a celebrity")
    # The lower bound keeps the short limit (half of it) at a page of 40 entries.
    timeline_entries: int = _setting(
        800, 80, 3_200, "entries", "length of a home timeline; a raise reaches those present when they are rebuilt"
    )
    timeline_ttl_s: int = _setting(
        30 * DAY_S, 3_600, 365 * DAY_S, "seconds", "a timeline that nobody reads for so long goes"
    )
    rate_per_token: int = _setting(
        200, 0, 100_000, "requests a second", "what the HTTP API takes of one token; 0: no limit"
    )
    rate_per_address: int = _setting(
        1_000, 0, 100_000, "requests a second", "what the HTTP API takes of one client address; 0: no limit"
    )
    outbox_age_max_s: int = _setting(
        60, 0, DAY_S, "seconds", "the HTTP API takes no writes while an event waits longer for Kafka; 0: it never looks"
    )
    leave_after_s: int = _setting(60, 5, DAY_S, "seconds", "a node that is away for so long leaves the placement")
    # A quarter of a cluster: of that its readers have two copies meanwhile. A node that joins two takes a third,
    # so that is two batches; each raises the epoch once, for which every worker asks Kafka once for each partition.
    move_slots_max: int = _setting(
        256, 1, 1_024, "slots", "how many slots in use of each cluster are moved at a time; the next when these serve"
    )
    # A hundred thousand users in 10 s, when other copies have them; two busy cores read some thousand a second from the
    # database.
    repair_users_per_s: int = _setting(
        10_000, 0, 100_000, "users a second", "how many users' timelines repair builds at most; 0: it pauses"
    )
    # A hundred thousand users in a quarter of an hour, for a thousandth of a node's time.
    compare_users_per_s: int = _setting(
        100, 0, 100_000, "users a second", "how many users' timelines the copies are compared of; 0: none"
    )
    version: int = field(default=0, compare=False)  # every change has a higher one; 0: nothing is stored

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            setting.check(getattr(self, name))


SETTINGS: Mapping[str, Setting] = {
    one.name: Setting(one.name, *one.metadata["row"]) for one in fields(LiveSettings) if one.metadata
}


def setting_named(name: str) -> Setting:
    """The setting. Raises `InvalidInput` when there is none of that name."""
    if name not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise InvalidInput(
            f"{name[:SHOWN_MAX]!r} is no live setting; they are {known} (`fanfold config show` has process settings)"
        )
    return SETTINGS[name]


def encode_live_settings(settings: LiveSettings) -> bytes:
    """The znode's bytes."""
    return _encode(asdict(settings))


def decode_live_settings(data: bytes) -> LiveSettings:
    """The inverse; keys that this code does not know are ignored. Raises `Undecodable`, and `InvalidInput`."""
    return _settings_of(_decode(data))


def watch_live_settings(zookeeper: ZooKeeper) -> Watched[LiveSettings]:
    """What is in force, from now on; the metric says which version that is."""
    return Watched(zookeeper, LIVE_SETTINGS_PATH, decode_live_settings, _note_version)


def read_live_settings(zookeeper: ZooKeeper) -> LiveSettings:
    """What is in force; the defaults, as version 0, when nothing is stored."""
    found = zookeeper.read(LIVE_SETTINGS_PATH)
    return decode_live_settings(found[0]) if found else LiveSettings()


def ensure_live_settings(zookeeper: ZooKeeper) -> None:
    """Stores the defaults when there are no live settings yet."""
    if zookeeper.read(LIVE_SETTINGS_PATH) is None:
        change_live_settings(zookeeper, {}, origin())


def set_live_settings(zookeeper: ZooKeeper, **changes: int) -> LiveSettings:
    """Changes some live settings and returns all. Raises as `change_live_settings`."""
    return change_live_settings(zookeeper, changes, origin()).settings


@dataclass(frozen=True, slots=True)
class Changed:
    """What is in force after a change, and what it changed: nothing when all was so already, and no version either."""

    settings: LiveSettings
    changes: tuple[Change, ...]


def change_live_settings(zookeeper: ZooKeeper, changes: Mapping[str, int], origin: Origin) -> Changed:
    """Changes some live settings, all or none.

    Raises `InvalidInput` for an unknown one or a value out of its range, `Conflict` when others always are faster.
    """
    for name, value in changes.items():
        setting_named(name).check(value)
    return _change(zookeeper, changes, origin)


def roll_back_live_settings(zookeeper: ZooKeeper, version: int | None, origin: Origin) -> Changed:
    """Makes the values of an older version current, as a new version; without `version` those before the last change.

    Settings that the older one did not have stay as they are, and what cannot be read is replaced. Raises `NotFound`
    for a version that is not kept.
    """
    older = read_version(zookeeper, _version_before(zookeeper) if version is None else version)
    return _change(zookeeper, older.values, origin, older.version)


def next_versions(
    before: Mapping[str, Any] | None,
    values: Mapping[str, Any],
    kept: Sequence[int],
    origin: Origin,
    rollback_to: int | None = None,
) -> list[Version]:
    """The version that the values make of what is stored; none when they change nothing.

    What is stored and has no entry among those `kept` is the second one: an earlier release wrote it.
    """
    old = _DEFAULTS | dict(before or {})
    new = old | dict(values)
    _settings_of(new)  # raises for a value that is not in its range, or no longer
    changes = tuple(Change(name, old[name], new[name]) for name in SETTINGS if old[name] != new[name])
    if before is not None and not changes:
        return []
    number, at = max([old[VERSION_KEY], *kept]) + 1, origin.at.isoformat()
    versions = [Version(number, at, origin.by, changes, _values(new), rollback_to)]
    if before is not None and old[VERSION_KEY] not in kept:
        versions.append(Version(old[VERSION_KEY], at, UNKNOWN, (), _values(old)))
    return versions


def _change(zookeeper: ZooKeeper, values: Mapping[str, Any], origin: Origin, rollback_to: int | None = None) -> Changed:
    zookeeper.create(LIVE_SETTINGS_HISTORY_PATH, b"")
    for _ in range(TRIES_MAX):
        found, kept = zookeeper.read(LIVE_SETTINGS_PATH), versions_kept(zookeeper)
        before = _stored(found, mend=rollback_to is not None)
        versions = next_versions(before, values, kept, origin, rollback_to)
        if before is not None and not versions:
            return Changed(_settings_of(before), ())
        stored = {**versions[0].values, VERSION_KEY: versions[0].version}
        written = {LIVE_SETTINGS_PATH: (_encode(stored), found and found[1]), **entries_of(versions, kept)}
        if _write(zookeeper, written):
            return Changed(_settings_of(stored), versions[0].changes)
    raise Conflict(f"others changed the live settings {TRIES_MAX} times meanwhile: try again")


def _write(zookeeper: ZooKeeper, writes: Mapping[str, tuple[bytes | None, int | None]]) -> bool:
    """A crash before or after leaves either both, the settings and the entry of their history, or none."""
    try:
        return zookeeper.write_together(
            [Remove(path) if data is None else written(path, data, version) for path, (data, version) in writes.items()]
        )
    except ZooKeeperUnavailable as error:
        raise ZooKeeperUnavailable(f"{error}: `fanfold config history` shows whether the change was stored") from error


def _version_before(zookeeper: ZooKeeper) -> int:
    """The newest version older than what is in force; the newest of all when that cannot be read."""
    stored, kept = _stored(zookeeper.read(LIVE_SETTINGS_PATH), mend=True), versions_kept(zookeeper)
    older = [version for version in kept if stored is None or version < stored.get(VERSION_KEY, 0)]
    if not older:
        raise NotFound("there is no older version of the live settings to go back to")
    return older[-1]


def _stored(found: tuple[bytes, int] | None, mend: bool) -> dict[str, Any] | None:
    """What is stored; with `mend` what cannot be read counts as nothing."""
    try:
        return None if found is None else _decode(found[0])
    except Undecodable:
        if mend:
            return None
        raise


def _encode(stored: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(stored), sort_keys=True).encode()


def _decode(data: bytes) -> dict[str, Any]:
    try:
        stored = json.loads(data)
    except (ValueError, RecursionError):
        stored = None
    version = stored.get(VERSION_KEY, 0) if isinstance(stored, dict) else None
    if not isinstance(stored, dict) or isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise Undecodable(
            f"the live settings in ZooKeeper cannot be read: they begin with {data[:SHOWN_MAX]!r}; "
            "`fanfold config rollback` puts the last good version in their place"
        )
    return stored


def _settings_of(stored: Mapping[str, Any]) -> LiveSettings:
    return LiveSettings(**{key: value for key, value in stored.items() if key in SETTINGS or key == VERSION_KEY})


def _values(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key != VERSION_KEY}


def _note_version(settings: LiveSettings) -> None:
    metrics.LIVE_SETTINGS_VERSION.set(settings.version)


_DEFAULTS = asdict(LiveSettings())
