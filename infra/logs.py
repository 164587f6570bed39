"""Logs: one constant message per event, ids as fields, on standard error; console or JSON.

Lines of other libraries (Faust, aiokafka, kazoo, uvicorn) come through Python's logging and leave in the same form,
with the name of their logger. Secrets are cut out of every line (hiding.py).
"""

import logging
import sys

import structlog

from infra.hiding import hide_secrets
from infra.settings import Settings

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def configure_logs(settings: Settings) -> None:
    """Sends every structlog event and every line of a library to standard error, in the settings' level and format."""
    structlog.configure(
        processors=[*_fields(), structlog.processors.format_exc_info, _renderer(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.root.handlers = [library_handler(settings)]
    logging.root.setLevel(library_level(settings))


def library_handler(settings: Settings) -> logging.Handler:
    """Writes a library's line as an event of ours."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_fields()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _renderer(settings),
            ],
        )
    )
    return handler


def library_level(settings: Settings) -> int:
    """Warnings and worse: what a library thinks worth an info line is of interest only when we look for a fault."""
    return logging.DEBUG if settings.log_level == "debug" else max(LEVELS[settings.log_level], logging.WARNING)


def wants_json(settings: Settings) -> bool:
    """People read a terminal; files and pipes are read by programs."""
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def _fields() -> list[structlog.typing.Processor]:
    return [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]


def _renderer(settings: Settings) -> structlog.typing.Processor:
    render: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if wants_json(settings):
        render = structlog.processors.JSONRenderer(default=str)

    def render_without_secrets(
        logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> str:
        return hide_secrets(str(render(logger, method, event)))

    return render_without_secrets
