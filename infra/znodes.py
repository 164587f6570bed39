"""Changes of znodes that are written together, all or none (`ZooKeeper.write_together`)."""

from dataclasses import dataclass

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)  # what decoding a znode with anything in it raises
ANY_VERSION = -1  # ZooKeeper's own word for it


@dataclass(frozen=True, slots=True)
class Create:
    """A znode that must not exist yet. What is above it is made first, and stays also when the rest is refused."""

    path: str
    data: bytes
    ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class Replace:
    """New bytes of a znode that must be there and still have this version."""

    path: str
    data: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Remove:
    """A znode that goes; it must still have this version."""

    path: str
    version: int = ANY_VERSION


@dataclass(frozen=True, slots=True)
class Require:
    """A znode that must still have this version, and stays as it is."""

    path: str
    version: int = ANY_VERSION


def written(path: str, data: bytes, version: int | None) -> "Create | Replace":
    """A znode with these bytes, which has this version or, without one, is not there yet."""
    return Create(path, data) if version is None else Replace(path, data, version)


Change = Create | Replace | Remove | Require
