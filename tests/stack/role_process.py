"""A role of `fanfold` as a process of its own, on the servers of the tests."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.settings import PREFIX
from tests.waiting import wait_until

READY_WITHIN_S = 60.0  # imports on a busy machine

Process = subprocess.Popen[bytes]


@contextmanager
def role_process(role: str, settings: Mapping[str, str], folder: Path, name: str) -> Iterator[Process]:
    """`fanfold ROLE` with these settings, once it serves or stands by; killed at the end."""
    ready = folder / f"{name}.ready"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        **{PREFIX + key.upper(): value for key, value in settings.items()},
        f"{PREFIX}READY_FILE": str(ready),
    }
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), role]
    with (folder / f"{name}.log").open("wb") as out, Process(command, env=environ, stdout=out, stderr=out) as process:
        try:
            wait_until(ready.exists, f"{name} to be ready", READY_WITHIN_S)
            yield process
        finally:
            process.kill()
