"""The command that serves the HTTP API."""

import typer

from infra.cli import settings_of


def api(context: typer.Context) -> None:
    """Serve the HTTP API on FANFOLD_API_HOST (127.0.0.1) and FANFOLD_API_PORT (8400)."""
    from infra.api_server import serve  # FastAPI takes half a second to import, and only this command needs it

    serve(settings_of(context))
