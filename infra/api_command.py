"""The command that serves the HTTP API."""

import typer

from infra.cli import settings_of


def api(context: typer.Context) -> None:
    """Serve the HTTP API, on loopback only: the acting user is whoever a header names."""
    from infra.api_server import serve  # FastAPI takes half a second to import, and only this command needs it

    serve(settings_of(context))
