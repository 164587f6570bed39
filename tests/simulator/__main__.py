"""`make simulate`: many episodes from one seed, or one episode again with its last steps.

make simulate SEED=7 STEPS=1000000
make simulate EPISODE=7/123
"""

import argparse
import secrets
import sys
import time
import traceback
from contextlib import nullcontext

from tests.simulator.mutants import MUTANTS
from tests.simulator.profile import THEMES
from tests.simulator.scenes import SCENES, episode
from tests.simulator.simulation import Simulation

TRACED_STEPS = 200


def main() -> int:
    """0 when all held, 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of all episodes; random when left out")
    parser.add_argument("--steps", type=int, default=500_000, help="at least so many (default 500,000)")
    parser.add_argument("--episode", help="SEED/NUMBER of one episode, to see its last steps")
    parser.add_argument(
        "--theme", choices=[*THEMES, *SCENES], help="what all episodes are about; else the seed decides"
    )
    parser.add_argument("--mutant", choices=[one.name for one in MUTANTS], help="break the product this way")
    given = parser.parse_args()
    mutant = next((one for one in MUTANTS if one.name == given.mutant), None)
    edits, theme = (mutant.edits, given.theme or mutant.theme) if mutant else ((), given.theme)
    with mutant.active() if mutant else nullcontext():
        if given.episode:
            return _one(episode(given.episode, edits, theme=theme, traced=True))
        steps, number, began_s = 0, 0, time.monotonic()
        while steps < given.steps:
            simulation = episode(f"{given.seed}/{number}", edits, theme=theme)
            if not _holds(simulation):
                _say(f"to see its last steps: {_again(given, simulation.seed)}")
                return 1
            steps, number = steps + simulation.scheduler.made, number + 1
    speed = steps / (time.monotonic() - began_s)
    _say(f"{number:,} episodes with {steps:,} steps from seed {given.seed}, {speed:,.0f} steps a second: all held")
    return 0


def _again(given: argparse.Namespace, episode: str) -> str:
    if given.mutant or given.theme:
        return f"the same command with --episode {episode}"
    return f"make simulate EPISODE={episode}"


def _one(simulation: Simulation) -> int:
    if _holds(simulation):
        steps, digest = simulation.scheduler.made, simulation.scheduler.digest()
        _say(f"episode {simulation.seed} with {steps:,} steps: all held ({digest})")
        return 0
    for line in (simulation.scheduler.trace or [])[-TRACED_STEPS:]:
        _say(line)
    return 1


def _holds(simulation: Simulation) -> bool:
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it was found
        _say("".join(traceback.format_exception(error)))
        _say(f"episode {simulation.seed}: {type(error).__name__}: {error}")
        return False
    return True


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
