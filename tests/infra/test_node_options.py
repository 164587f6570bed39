"""What a registrar may be asked to look after, and what it says of anything else."""

import re

import pytest

from infra.errors import ConfigurationError
from infra.hash_ring import WEIGHT_MAX
from infra.node_options import NAME_CHARACTERS_MAX, NodeOptions, check_node_options

URL = "redis://127.0.0.1:7001"
LONGEST = "a" * NAME_CHARACTERS_MAX


@pytest.mark.parametrize("name", ["a1", "a", "a-3.rack_7", LONGEST])
@pytest.mark.parametrize(
    "url",
    [
        URL,
        "redis://localhost",
        "redis://[::1]:7001/",
        "redis://:hush@h:1/0",
        "rediss://me:hu%40sh@h:1?ssl_cert_reqs=none&ssl_ca_certs=/etc/ca.pem",
    ],
)
def test_a_name_of_the_cluster_and_the_address_of_a_server_are_taken(name: str, url: str) -> None:
    for weight in (1, WEIGHT_MAX):
        options = NodeOptions(name, url, weight)
        assert check_node_options(options, "a") == check_node_options(options) == options


@pytest.mark.parametrize(
    ("name", "weight", "cluster", "sentence"),
    [
        ("a1", 1, "d", "cluster 'd' is none of a, b, c"),
        ("a1", 1, "", "cluster '' is none of a, b, c"),
        ("b1", 1, "a", "node 'b1' must have a name that begins with its cluster's letter, a"),
        ("x1", 1, None, "node 'x1' must have a name that begins with its cluster's letter, one of a, b, c"),
        ("a/1", 1, "a", f"node 'a/1' must have a name of 1 to {NAME_CHARACTERS_MAX} letters"),
        ("", 1, "a", "node '' must have a name of 1 to"),
        ("a1\n", 1, "a", r"node 'a1\n' must have a name of 1 to"),
        ("a b", 1, "a", "node 'a b' must have a name of 1 to"),
        ("ä1", 1, None, "node 'ä1' must have a name of 1 to"),
        (LONGEST + "a", 1, "a", f"node '{LONGEST}a' must have a name of 1 to"),
        ("a1", 0, "a", f"node 'a1' has weight 0, but it must be from 1 to {WEIGHT_MAX}"),
        ("a1", -1, "a", "has weight -1"),
        ("a1", WEIGHT_MAX + 1, "a", f"has weight {WEIGHT_MAX + 1}"),
    ],
)
def test_a_bad_name_cluster_or_weight_is_one_sentence(
    name: str, weight: int, cluster: str | None, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        check_node_options(NodeOptions(name, URL, weight), cluster)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ("127.0.0.1:7001", "127.0.0.1:7001"),
        ("", ""),
        ("redis://", "redis://"),
        ("redis://h:port", "redis://h:port"),
        ("redis://h:0", "redis://h:0"),
        ("redis://h:70000", "redis://h:70000"),
        ("redis://h:1/3", "redis://h:1/3"),
        ("redis://h:1?db=3", "redis://h:1?***"),
        ("redis://h:1?password=hush", "redis://h:1?***"),
        ("redis://h:1?ssl_cert_reqs=none&socket_timeout=99", "redis://h:1?***"),
        ("redis://:hush@hush@h:1", "redis://***@h:1"),
        ("redis://:hush/hush@h:1", "redis://***@h:1"),
        ("redis://:hush?hush@h:1", "redis://***@h:1"),
        ("redis://:hush#hush@h:1", "redis://***@h:1"),
        ("unix://me:hush@/run/redis.sock", "unix://***@/run/redis.sock"),
    ],
)
def test_a_bad_address_is_shown_without_user_and_password(url: str, shown: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check_node_options(NodeOptions("a1", url), "a")

    assert str(raised.value).startswith(
        f"node 'a1' has the address {shown!r}, but it must be a URL as redis://host:port"
    )
    assert "hush" not in str(raised.value)
