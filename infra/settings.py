"""Process settings: the only place that reads the environment, once, into one frozen object.

Input: `FANFOLD_…` variables, and below them the addresses a running embedded stack left in
`<data dir>/stack.env`. Live settings (threshold, timeline length) are in ZooKeeper: see live_settings.py.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from infra.errors import ConfigurationError, StackError
from infra.hiding import hide_secrets

PREFIX = "FANFOLD_"
STACK_ENV = "stack.env"

LogFormat = Literal["auto", "console", "json"]  # auto: console on a terminal, JSON in a file or pipe
LogLevel = Literal["debug", "info", "warn", "error"]
WithoutRedis = Literal["open", "closed"]  # requests that no rate limit can be asked about: taken, or answered 503
TestServices = Literal["embedded", "docker"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process needs to know. Addresses that are empty are refused where they are needed."""

    data_dir: Path = Path(".fanfold")
    database_url: str = ""
    kafka_bootstrap: str = ""
    zookeeper_hosts: str = ""
    redis_nodes: Mapping[str, str] = ()  # type: ignore[assignment]
    nodes_at_once: int = 0  # Redis nodes that a small delivery round has at work at the same time; 0: all
    api_host: str = "127.0.0.1"
    api_port: int = 8400
    api_trusted_proxies: str = ""  # whose X-Forwarded-For counts; of anybody else it is not looked at
    rate_limit_without_redis: WithoutRedis = "open"
    metrics_port: int = 0
    dead_letter_share_max: float = 0.01  # of an agent's messages; above it the agent stops
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    ready_file: Path | None = None
    test_services: TestServices = "embedded"

    def need(self, name: str) -> Any:
        """The value of a setting that must not be empty; `StackError` says how to provide it."""
        value = getattr(self, name)
        if not value:
            raise StackError(
                f"{PREFIX}{name.upper()} is not set and no running stack was found in {self.data_dir}: "
                "start one with `fanfold up`, or set the variable"
            )
        return value


def _integer(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("a whole number from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise ValueError("a whole number from 0 to 9999")
    return int(text)


def _share(text: str) -> float:
    rule = "a share from 0 to 1, such as 0.01 for one in a hundred"
    try:
        share = float(text)
    except ValueError:
        raise ValueError(rule) from None
    if not 0 <= share <= 1:  # also what is no number
        raise ValueError(rule)
    return share


def _one_of(kind: object) -> Callable[[str], str]:
    choices = get_args(kind)

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return parse


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not any(text.startswith(scheme + "://") for scheme in schemes):
            raise ValueError("a URL that begins with " + " or ".join(s + "://" for s in schemes))
        return text

    return parse


def _hosts(text: str) -> str:
    for host in text.split("/", 1)[0].split(","):
        name, colon, port = host.rpartition(":")
        if not (name and colon and port.isdigit()):
            raise ValueError("host:port pairs, separated by commas")
    return text


def _networks(text: str) -> str:
    try:
        for item in filter(None, text.split(",")):
            ipaddress.ip_network(item.strip())
    except ValueError:
        raise ValueError("addresses or networks, separated by commas (10.0.0.7,10.1.0.0/16)") from None
    return text


def _nodes(text: str) -> Mapping[str, str]:
    nodes: dict[str, str] = {}
    for item in text.split(","):
        name, equals, url = item.strip().partition("=")
        if not equals or not name[:1].isalpha() or not url.startswith(("redis://", "rediss://")):
            raise ValueError("name=redis://host:port pairs, separated by commas (a1=redis://127.0.0.1:7001,…)")
        if name in nodes:
            raise ValueError(f"each node once, but {name} stands there twice")
        nodes[name] = url
    return nodes


PARSERS: Mapping[str, Callable[[str], Any]] = {
    "data_dir": Path,
    "database_url": _url("postgresql", "postgresql+psycopg"),
    "kafka_bootstrap": _hosts,
    "zookeeper_hosts": _hosts,
    "redis_nodes": _nodes,
    "nodes_at_once": _count,
    "api_host": str,
    "api_port": _integer,
    "api_trusted_proxies": _networks,
    "rate_limit_without_redis": _one_of(WithoutRedis),
    "metrics_port": _integer,
    "dead_letter_share_max": _share,
    "log_level": _one_of(LogLevel),
    "log_format": _one_of(LogFormat),
    "ready_file": Path,
    "test_services": _one_of(TestServices),
}


def load_settings(environ: Mapping[str, str], data_dir: Path | None = None) -> Settings:
    """Settings from `environ`, then from the stack's file, then the defaults.

    Raises `ConfigurationError` for an unknown `FANFOLD_` key or a value of the wrong type.
    """
    given = {key: value for key, value in environ.items() if key.startswith(PREFIX)}
    if data_dir is not None:
        given[PREFIX + "DATA_DIR"] = str(data_dir)
    where = Path(given.get(PREFIX + "DATA_DIR", ".fanfold"))
    values = _parse(read_env_file(where / STACK_ENV)) | _parse(given)
    return Settings(**values)


def read_env_file(path: Path) -> dict[str, str]:
    """`KEY=value` lines as a dict; a file that is not there is empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    pairs = (line.partition("=") for line in lines if line.strip() and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _parse(given: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, text in given.items():
        name = key.removeprefix(PREFIX).lower()
        if name not in PARSERS:
            known = ", ".join(PREFIX + field.name.upper() for field in fields(Settings))
            raise ConfigurationError(f"{key} is not a setting; the settings are {known}")
        try:
            values[name] = PARSERS[name](text)
        except ValueError as rule:
            raise ConfigurationError(f"{key} is {hide_secrets(text)!r}, but must be {rule}") from None
    return values
