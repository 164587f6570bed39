"""Commands of the top layer: the demo."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands of `benchmarks`."""
