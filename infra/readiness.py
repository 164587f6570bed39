"""What a role says to whoever started it: that it serves (its pid in the file that the supervisor named), and, by its
exit code, whether starting it again would help."""

import os
from pathlib import Path

import structlog

from infra.settings import Settings

# EX_TEMPFAIL of sysexits.h. It may come while a role starts: what it is to take over is not free yet.
EXIT_UNFINISHED = 75
# EX_DATAERR. Elsewhere: systemd's RestartPreventExitStatus=65, or an alert.
EXIT_NOT_AGAIN = 65  # a person must look first: another start would only do the same

log = structlog.get_logger()


def announce_ready(settings: Settings) -> None:
    """Says once that this process does its work now. Idempotent; without a ready file it only logs."""
    if settings.ready_file is not None:
        write_atomically(settings.ready_file, f"{os.getpid()}\n")
    log.info("ready", pid=os.getpid())


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
