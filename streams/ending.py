"""How a worker ends when it cannot go on: at once, with nothing acknowledged that is not done."""

import os
from typing import NoReturn

import structlog

from infra.readiness import EXIT_UNFINISHED

log = structlog.get_logger()


def end_process(reason: str, code: int = EXIT_UNFINISHED) -> NoReturn:
    """Ends this process at once: cancelling the app instead would commit what is not done."""
    log.error("worker ends", reason=reason)
    os._exit(code)
