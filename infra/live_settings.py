"""Live settings: kept in ZooKeeper, checked before they are stored, in force in every process within seconds.

Process settings (addresses, ports, logs) come from the environment instead: settings.py. No key exists in both.
"""

import json
from dataclasses import asdict, dataclass, fields, replace

from infra.errors import InvalidInput
from infra.zookeeper import LIVE_SETTINGS_PATH, ZooKeeper

DAY_S = 86_400

# Inclusive ranges. The lower bound of the length keeps the short limit (half of it) above a page of 40 entries.
RANGES = {
    "threshold": (1, 100_000),
    "timeline_entries": (80, 3_200),
    "timeline_ttl_s": (3_600, 365 * DAY_S),
    "rate_per_token": (0, 100_000),
    "rate_per_address": (0, 100_000),
    "outbox_age_max_s": (0, DAY_S),
}


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """threshold: followers above which an author is a celebrity; length of a home timeline; time to live.

    Requests a second to the HTTP API, of one token and of one client address (0: no limit); the age of the oldest event
    not sent to Kafka above which the API takes no more writes (0: any, and nobody looks).
    """

    threshold: int = 10_000
    timeline_entries: int = 800
    timeline_ttl_s: int = 30 * DAY_S
    rate_per_token: int = 200
    rate_per_address: int = 1_000
    outbox_age_max_s: int = 60

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), RANGES[field.name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InvalidInput(f"live setting {field.name} is {value!r}, but must be from {low:,} to {high:,}")


def encode_live_settings(settings: LiveSettings) -> bytes:
    """The znode's bytes."""
    return json.dumps(asdict(settings), sort_keys=True).encode()


def decode_live_settings(data: bytes) -> LiveSettings:
    """The inverse; keys that this version does not know are ignored."""
    known = {field.name for field in fields(LiveSettings)}
    return LiveSettings(**{key: value for key, value in json.loads(data).items() if key in known})


def ensure_live_settings(zookeeper: ZooKeeper) -> None:
    """Stores the defaults when there are no live settings yet."""
    zookeeper.create(LIVE_SETTINGS_PATH, encode_live_settings(LiveSettings()))


def set_live_settings(zookeeper: ZooKeeper, **changes: int) -> LiveSettings:
    """Changes some live settings, by compare-and-set. Raises `InvalidInput` for a value out of its range."""
    ensure_live_settings(zookeeper)
    while True:
        found = zookeeper.read(LIVE_SETTINGS_PATH)
        assert found is not None
        data, version = found
        changed = replace(decode_live_settings(data), **changes)
        if zookeeper.compare_and_set(LIVE_SETTINGS_PATH, encode_live_settings(changed), version):
            return changed
