"""Registrar, first form: makes a Redis node fit to be written, and says that it is there.

A node that restarted is empty of what it should hold: the registrar empties it for good, loads the Functions, and only
then writes the incarnation, without which every Function refuses to write. Nobody else loads Functions.
"""

import json
import secrets
import threading
from collections.abc import Callable

import structlog

from infra.errors import ConfigurationError, FanfoldError
from infra.hiding import hide_secrets
from infra.redis_node import RedisNode
from infra.zookeeper import NODES_PATH, ZooKeeper

HEALTH_PERIOD_S = 0.5
HEALTH_TIMEOUT_S = 1.0
ROUND_S = 30.0  # one look: a few calls to the node, and a session's length for a silent ZooKeeper

log = structlog.get_logger()


def check_node(node: RedisNode) -> str:
    """The node's run id. Raises `ConfigurationError` for a server whose configuration would lose or keep too much."""
    info = _info(node)
    name = f"Redis node {node.name} at {hide_secrets(node.url)}"
    if info.get("role") != "master":
        raise ConfigurationError(f"{name} is a {info.get('role')}; a node must not be a replica: REPLICAOF NO ONE")
    if int(info.get("redis_version", "0").split(".")[0]) < 7:
        raise ConfigurationError(f"{name} has version {info.get('redis_version')}; Functions need 7 or newer")
    rules = {"save": "", "appendonly": "no", "maxmemory-policy": "volatile-lru"}
    for key, wanted in rules.items():
        found = _text(node.command("CONFIG", "GET", key)[1])
        if found != wanted:
            raise ConfigurationError(f"{name} has {key} {found!r}; set it to {wanted!r} (CONFIG SET {key} …)")
    return info["run_id"]


def prepare_node(node: RedisNode, run_id: str) -> bool:
    """Empties a node that restarted, loads the Functions, writes the incarnation. False when it was ready already."""
    if incarnation_of(node)[0] == run_id:
        node.load_functions()
        return False
    node.command("FLUSHALL", "SYNC")
    node.load_functions()
    # A crash before this line leaves a node that refuses every write; the next look starts again.
    node.command("HSET", "n", "incarnation", secrets.token_hex(8), "run_id", run_id)
    return True


def incarnation_of(node: RedisNode) -> tuple[str, str]:
    """The run id that the node was prepared in, and its incarnation; empty when it was not, or was emptied since."""
    run_id, incarnation = node.command("HMGET", "n", "run_id", "incarnation")
    return _text(run_id or b""), _text(incarnation or b"")


class Registration:
    """Keeps one node registered: checks, prepares, holds its ephemeral znode, follows its health and run id."""

    def __init__(self, zookeeper: ZooKeeper, name: str, url: str) -> None:
        self._zookeeper = zookeeper
        self._node = RedisNode(name, url, timeout_s=HEALTH_TIMEOUT_S)
        self._run_id: str | None = None
        self.ready = threading.Event()

    @property
    def is_out(self) -> bool:
        """Whether the node was not fit at the last look."""
        return self._run_id is None

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.name

    def keep(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Runs until `stop` is set, then takes the node out."""
        while not stop.is_set():
            beat()
            try:
                self.look()
            except FanfoldError as error:
                self._lost(error)
            stop.wait(HEALTH_PERIOD_S)
        self.close()

    def look(self) -> None:
        """One look at the node: registers it when it is new or restarted."""
        run_id = _info(self._node)["run_id"]
        path = f"{NODES_PATH}/{self._node.name}"
        if run_id == self._run_id == incarnation_of(self._node)[0] and self._zookeeper.read(path) is not None:
            return
        check_node(self._node)
        emptied = prepare_node(self._node, run_id)
        _, incarnation = incarnation_of(self._node)
        member = json.dumps({"url": self._node.url, "incarnation": incarnation}).encode()
        self._zookeeper.delete(path)
        self._zookeeper.create(path, member, ephemeral=True)
        self._run_id = run_id
        self.ready.set()
        log.info("node registered", node=self._node.name, url=hide_secrets(self._node.url), emptied=emptied)

    def close(self) -> None:
        """Closes the connections; the ephemeral znode goes with the session."""
        self._node.close()

    def _lost(self, error: FanfoldError) -> None:
        if self._run_id is not None or not self.ready.is_set():
            log.warning("node is out", node=self._node.name, error=str(error))
        self._run_id = None


def _info(node: RedisNode) -> dict[str, str]:
    fields: dict[str, str] = {}
    answer = node.command("INFO")
    if isinstance(answer, dict):
        return {str(key): str(value) for key, value in answer.items()}
    for line in _text(answer).splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    return fields


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
