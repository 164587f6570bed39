"""What the command of every role needs: metrics, a stop on signals, and saying when it serves."""

import signal
import threading

from infra.metrics import serve_metrics
from infra.readiness import announce_ready
from infra.settings import Settings


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def begin_role(settings: Settings) -> threading.Event:
    """Serves /metrics, and returns the event that SIGTERM and Ctrl-C set."""
    serve_metrics(settings)
    return stop_on_signals()


def announce_when(ready: threading.Event, settings: Settings) -> None:
    """Announces this process when `ready` is set."""

    def wait() -> None:
        ready.wait()
        announce_ready(settings)

    threading.Thread(target=wait, daemon=True).start()
