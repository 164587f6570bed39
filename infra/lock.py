"""`make lock`, run in the project's folder: writes both lock files anew, from pyproject.toml and jgo.toml."""

import shutil
import subprocess
import sys

from infra.cli import say
from infra.errors import ConfigurationError, FanfoldError
from infra.stack import jars

# One lock file for every supported Python and system, with hashes and without the names of registries.
COMPILE = (
    *("uv", "pip", "compile", "pyproject.toml", "--group", "dev", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-emit-find-links", "--no-header", "-q", "-o", "requirements.lock"),
)


def lock_packages() -> None:
    """Writes requirements.lock: every package with its hashes, for each Python that the project supports."""
    if shutil.which("uv") is None:
        raise ConfigurationError("making requirements.lock anew needs `uv` on the PATH (installing from it does not)")
    if subprocess.run(COMPILE, check=False).returncode != 0:
        raise ConfigurationError("uv could not resolve pyproject.toml (its message stands above)")


def main() -> int:
    """Writes both lock files."""
    try:
        lock_packages()
        say("requirements.lock is written")
        say(f"{jars.LOCK.name} is written: {jars.write_lock()} jars")
    except FanfoldError as error:
        say(f"fanfold: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
