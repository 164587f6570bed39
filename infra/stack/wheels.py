"""Where the wheels that bring servers keep their programs; found without importing them.

Importing would load clients that we do not use, and warns on machines without a session folder.
"""

import importlib.util
from pathlib import Path

from infra.errors import StackError


def program(package: str, pattern: str) -> Path:
    """The one file of an installed package that matches `pattern`; `StackError` says how to get it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(folder).glob(pattern)):
            return found
    raise StackError(f"the package {package} brings no {pattern.rpartition('/')[2]} for this machine: run `make setup`")
