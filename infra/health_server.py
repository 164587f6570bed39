"""/metrics, /healthz and /readyz of a role, on loopback. Their threads answer while the role itself is stuck."""

import json
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infra.errors import DependencyError
from infra.health import Answer, Health
from infra.settings import Settings

HOST = "127.0.0.1"
REQUEST_TIMEOUT_S = 5.0  # a client that sends nothing holds a thread for no longer


class HealthServer(ThreadingHTTPServer):
    """Serves one process's health. Close it with `stop`."""

    daemon_threads = True

    def __init__(self, port: int, health: Health) -> None:
        try:
            super().__init__((HOST, port), partial(_Handler, health))
        except OSError as error:
            raise DependencyError(
                f"port {port} for metrics cannot be had ({error.strerror}): choose another one with "
                "FANFOLD_METRICS_PORT, or 0 for none"
            ) from None
        self._thread = threading.Thread(target=self.serve_forever, name="health", daemon=True)
        self._thread.start()

    def handle_error(self, *_: object) -> None:
        """A client that went away in the middle is its own affair."""

    def stop(self) -> None:
        """Ends the server and frees its port."""
        self.shutdown()
        self.server_close()
        self._thread.join()


def serve_health(settings: Settings, health: Health) -> None:
    """Serves the role's health for the life of the process, when the settings name a port."""
    if settings.metrics_port:
        HealthServer(settings.metrics_port, health)


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server_version = "fanfold"
    sys_version = ""

    def __init__(self, health: Health, *given: object) -> None:
        self._health = health
        super().__init__(*given)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answers one request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, generate_latest())
        elif path == "/healthz":
            self._say(self._health.alive)
        elif path == "/readyz":
            self._say(self._health.ready)
        else:
            self._send(404, "text/plain", b"there are /metrics, /healthz and /readyz\n")

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the name of http.server
        """A request for health is nothing to write down."""

    def _say(self, ask: Callable[[], Answer]) -> None:
        answer = ask()
        self._send(answer.http_status, "application/json", json.dumps(answer.as_json()).encode() + b"\n")

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
