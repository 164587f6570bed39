"""`python -m infra`: the command line, as the stack starts its roles."""

from infra.cli import main

main()
