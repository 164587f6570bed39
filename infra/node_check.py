"""What one look at a Redis server finds: whether it is fit to be a node, and what it says of itself.

Nothing is changed here. Next: registrar.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra import redis_keys
from infra.errors import ConfigurationError, RedisRefused
from infra.hiding import hide_secrets
from infra.redis_node import RedisNode

VERSION_MIN = 7  # the first one with Functions

# What is demanded of CONFIG GET. A node without persistence is empty after a restart, and knows it; only keys with a
# time to live may be evicted, since control records have none.
CONFIGURATION = {"save": "", "appendonly": "no", "maxmemory-policy": "volatile-lru"}

# Of a server that was never a node: one of another program has hardly a thousand keys that look like ours.
SAMPLE_KEYS = 1_000

SERVER = (("INFO", "server"), ("INFO", "replication"), *(("CONFIG", "GET", key) for key in CONFIGURATION))


@dataclass(frozen=True, slots=True)
class Found:
    """One look. All but `run_id` and `unfit` is what the node's hash says, empty where it says nothing."""

    run_id: str
    prepared_in: str = ""  # the run id in which it was given its incarnation
    incarnation: str = ""
    name: str = ""
    epoch: str = ""  # the coordinator has admitted it before; until then nobody can write
    unfit: str = ""  # a sentence when the server may not be a node as it is


def look_at(node: RedisNode) -> Found:
    """Two round trips. Raises `RedisUnavailable`, and `ConfigurationError` when the server refuses these commands."""
    try:
        server, replication, *configuration = node.commands(SERVER)
        info = _fields(server) | _fields(replication)
        config = {key: _text(answer[1]) for key, answer in zip(CONFIGURATION, configuration, strict=True) if answer}
        if unfit := why_unfit(info, config):
            title = f"Redis node {node.name} at {hide_secrets(node.url)}"
            return Found(info.get("run_id", ""), unfit=f"{title} {unfit}")
        own = node.command("HMGET", redis_keys.NODE, "run_id", "incarnation", "name", "epoch")
    except RedisRefused as error:
        raise ConfigurationError(f"{error}; a registrar has to be allowed every command") from error
    return Found(info["run_id"], *(_text(value or b"") for value in own))


def why_unfit(info: Mapping[str, str], config: Mapping[str, str]) -> str:
    """Why a server with these lines of INFO and of its configuration may not be a node; empty when it may."""
    mode = info.get("redis_mode") or info.get("server_mode")  # the second one is Valkey's
    version, role = info.get("redis_version", ""), info.get("role", "")
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < VERSION_MIN:
        return f"has version {version or 'unknown'}; Functions need Redis {VERSION_MIN} or newer, or Valkey"
    if mode != "standalone":
        return f"runs in mode {mode or 'unknown'}; a node must be a server by itself (cluster-enabled no)"
    if role != "master":
        return "is a replica; a node must not be one: REPLICAOF NO ONE"
    if not info.get("run_id"):
        return "tells no run_id, by which a restart is known (INFO server)"
    for key, wanted in CONFIGURATION.items():
        if (value := config.get(key)) != wanted:
            return f"has {key} {value!r}; set it to {wanted!r} (CONFIG SET {key} …)"
    return ""


def refuse_other_data(node: RedisNode) -> None:
    """Before a server is emptied that was never a node: raises `ConfigurationError` when it holds another program's
    keys. Ours may be there: tombstones, counts and rate limits are written without asking for an incarnation."""
    databases = _fields(node.command("INFO", "keyspace"))
    sample = node.command("SCAN", 0, "COUNT", SAMPLE_KEYS)[1]
    other = [key for key in sample if not redis_keys.is_ours(key)]
    if other or any(name != "db0" for name in databases):
        what = f"a key {other[0][:40]!r}" if other else f"keys in {', '.join(sorted(databases))}"
        raise ConfigurationError(
            f"Redis node {node.name} at {hide_secrets(node.url)} was never a node and has {what}, which Fanfold did "
            "not write: a registrar would empty it; is it the right server? If so, empty it with FLUSHALL"
        )


def _fields(answer: Any) -> dict[str, str]:
    """The lines of INFO; redis-py has parsed them in some versions."""
    if isinstance(answer, Mapping):
        return {_text(key): _text(value) for key, value in answer.items()}
    pairs = (line.partition(":") for line in _text(answer).splitlines())
    return {key: value.strip() for key, colon, value in pairs if colon}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
