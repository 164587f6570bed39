"""What the command of every role needs: its health shown, a stop on signals, and saying when it is there."""

import signal
import threading

from infra.health import Health
from infra.health_server import serve_health
from infra.readiness import announce_ready
from infra.settings import Settings


def begin_role(settings: Settings, health: Health) -> threading.Event:
    """Shows the role's health, announces it when it is ready, and returns the event that SIGTERM and Ctrl-C set."""
    show_health(settings, health)
    return stop_on_signals()


def show_health(settings: Settings, health: Health) -> None:
    """Serves /metrics, /healthz and /readyz, and announces the process when it is first ready, if only as standby."""
    serve_health(settings, health)

    def announce() -> None:
        health.was_ready.wait()
        announce_ready(settings)

    threading.Thread(target=announce, name="ready", daemon=True).start()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
