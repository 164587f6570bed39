"""`python -m infra`: the command line, as the stack starts its roles."""

from infra.start import main

main()
