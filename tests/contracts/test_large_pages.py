"""An embedded node's memory lies in pages of 2 MB where the system has them."""

import os
import platform
import subprocess
from pathlib import Path

import pytest

from infra.redis_node import RedisNode
from infra.stack.valkey import valkey_part
from tests.redis_server import free_port
from tests.waiting import wait_until

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LISTS = 4_000
ENTRIES = [str(10**18 + at) for at in range(480)]  # 20 MB of lists


def system_has_them() -> bool:
    library, version = platform.libc_ver()
    asks = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return asks and SWITCH.exists() and "[never]" not in SWITCH.read_text()


@pytest.mark.skipif(not system_has_them(), reason="no glibc 2.35, or a kernel that hands out no large pages")
def test_an_embedded_node_keeps_timelines_in_large_pages(tmp_path: Path) -> None:
    part = valkey_part("a1", tmp_path, free_port())
    server = subprocess.Popen(part.command, env=os.environ | part.environ, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: part.probe(server.pid), "the server's answer")
        node = RedisNode("a1", part.address)
        node.commands([("RPUSH", f"list{at}", *ENTRIES) for at in range(LISTS)])
        node.close()
        maps = Path(f"/proc/{server.pid}/smaps").read_text().splitlines()
        large_kb = sum(int(line.split()[1]) for line in maps if line.startswith("AnonHugePages"))
        assert large_kb > 10_000
    finally:
        server.kill()
        server.wait()
