"""The process's first lines: until the command line is imported, which takes some tenths of a second, Ctrl-C ends it at
once and without a traceback. Next: cli.py."""

import signal


def main() -> None:
    """The `fanfold` command."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # a shell may have it ignored: then it stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from infra.cli import main as run_command

    signal.signal(signal.SIGINT, handler)
    run_command()
