"""A worker's threads share malloc's arenas."""

import platform
import subprocess
import sys

from infra.malloc import ARENAS_MAX, share_arenas

# glibc's malloc_stats writes one line "Arena N:" an arena. The barrier keeps all threads alive at once.
PROGRAM = """
import ctypes, sys, threading
from infra.malloc import share_arenas
if sys.argv[1] == "shared":
    share_arenas()
barrier = threading.Barrier(8)
def work():
    held = [bytes(5_000) for _ in range(100)]
    barrier.wait(10)
threads = [threading.Thread(target=work) for _ in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
ctypes.CDLL(None).malloc_stats()
"""


def arenas(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], stderr=subprocess.PIPE, text=True, check=True)
    return sum(line.startswith("Arena") for line in done.stderr.splitlines())


def test_threads_share_two_arenas() -> None:
    if platform.libc_ver()[0] == "glibc":
        assert arenas("own") > arenas("shared") == ARENAS_MAX
    else:
        share_arenas()  # does nothing, and does not fail
