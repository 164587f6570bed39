"""The process that serves the HTTP API: one socket, ready when it listens, gone 5 s after a signal."""

import errno
import os
import resource
import signal
import socket
import threading
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

from infra.composition import stores
from infra.errors import ConfigurationError, DependencyError
from infra.http import create_app
from infra.http_protocol import BoundedProtocol
from infra.readiness import announce_ready
from infra.settings import Settings

GRACE_S = 3  # requests under way may end in this time
FILES_MAX = 16_384  # open ones, if the system allows it: each stream is one, and many systems begin with 1,024
STOP_S = 4.0  # then a thread that waits for a frozen server does not hold the process any longer

log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or Ctrl-C. Raises `ConfigurationError` and `DependencyError` before it listens."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _take_files()
    with bound_socket(settings) as bound, stores(settings) as opened:
        log.debug("shard map known", epoch=opened.clusters.shard_map.epoch, threshold=opened.timelines.live.threshold)
        ApiServer(create_app(opened, settings), settings).run([bound])


def bound_socket(settings: Settings) -> socket.socket:
    """A socket bound to the settings' address. Raises `ConfigurationError` for one that this machine does not have."""
    host, port = settings.api_host, settings.api_port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ConfigurationError(f"FANFOLD_API_HOST is {host!r}, which is not a known address") from None
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRNOTAVAIL:
            rule = "but must be an address of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for all of them"
            raise ConfigurationError(f"FANFOLD_API_HOST is {host!r}, {rule}") from None
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise DependencyError(f"port {port} on {host} {reason}; choose another one with FANFOLD_API_PORT") from None
    return bound


class ApiServer(uvicorn.Server):
    """uvicorn that announces readiness when it listens, and ends in time."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                access_log=False,
                log_config=None,
                proxy_headers=bool(settings.api_trusted_proxies),
                forwarded_allow_ips=settings.api_trusted_proxies,
                server_header=False,
                timeout_graceful_shutdown=GRACE_S,
                ws="none",
            )
        )
        self._settings = settings
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and then says so."""
        await super().startup(sockets)
        for bound in sockets or []:
            log.info("listening", host=bound.getsockname()[0], port=bound.getsockname()[1])
        announce_ready(self._settings)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets requests end, and streams say so. A thread cannot be cancelled: at `STOP_S` the process ends with it."""
        last = threading.Timer(STOP_S, _end)
        last.daemon = True
        last.start()
        for end in self._app.state.on_stop:
            end()
        await super().shutdown(sockets)


def _take_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _leave(*_: object) -> NoReturn:
    """The end that was asked for: uvicorn raises a signal again after its shutdown, and this one is no failure."""
    raise SystemExit(0)


def _end() -> None:
    log.warning("stopped with requests unanswered", after_s=STOP_S)
    os._exit(0)
