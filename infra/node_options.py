"""What a registrar is asked to look after, checked before anything is opened or touched.

A message never holds a password, nor a part of one: of an address that is malformed nobody knows where it ends.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from infra.errors import ConfigurationError
from infra.hash_ring import WEIGHT_MAX
from infra.shard_map import CLUSTERS

NAME_CHARACTERS_MAX = 32  # it stands in every table, log and picture of the ring

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARACTERS_MAX - 1}}}")


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """One node to look after."""

    name: str
    url: str
    weight: int = 1


def check_node_options(options: NodeOptions, cluster: str | None = None) -> NodeOptions:
    """The same options. Raises `ConfigurationError` with the value and the rule."""
    name = options.name
    if cluster is not None and cluster not in CLUSTERS:
        raise ConfigurationError(f"cluster {cluster!r} is none of {', '.join(CLUSTERS)}")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"node {name!r} must have a name of 1 to {NAME_CHARACTERS_MAX} letters, digits, dots, dashes and "
            "underscores"
        )
    if name[0] not in ((cluster,) if cluster else CLUSTERS):
        first = cluster or f"one of {', '.join(CLUSTERS)}"
        raise ConfigurationError(f"node {name!r} must have a name that begins with its cluster's letter, {first}")
    if not 1 <= options.weight <= WEIGHT_MAX:
        raise ConfigurationError(f"node {name!r} has weight {options.weight}, but it must be from 1 to {WEIGHT_MAX}")
    if not _leads_to_a_server(options.url):
        raise ConfigurationError(
            f"node {name!r} has the address {_shown(options.url)!r}, but it must be a URL as redis://host:port or "
            "rediss://user:password@host:port, the password percent-encoded; without a database's number, since a node "
            "is a whole server"
        )
    return options


def _leads_to_a_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        server = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
    except ValueError:  # its port is no number, or beyond 65535
        return False
    one_user = parts.netloc.count("@") <= 1
    only_tls = all(option.startswith("ssl_") for option in parts.query.split("&") if option)
    return bool(server) and one_user and only_tls and parts.path in ("", "/", "/0") and not parts.fragment


def _shown(url: str) -> str:
    scheme, colons, rest = url.partition("://")
    user, at, server = rest.rpartition("@")
    address, question, _ = server.partition("?")
    return f"{scheme}{colons}{user and '***'}{at}{address}{question and '?***'}"
