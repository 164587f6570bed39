"""The simulator: nothing that must hold is broken, whatever order the seed decides; and a run replays."""

import os
import subprocess
import sys
import time

import pytest

from tests.simulator.scenes import SCENES, episode
from tests.simulator.simulation import Simulation

SEED = 1  # fixed: what the ordinary run tries is the same on every machine; `make simulate` draws another one
SHARES = 3  # so that a failure says early what it found
SECONDS_OF_SHARE = 12.0
STEPS_A_SECOND_MIN = 2_000
EPISODES_OF_SCENE = 40  # one to five seconds


@pytest.mark.parametrize("share", range(SHARES))
def test_what_must_hold_holds_whatever_comes_in_which_order(share: int) -> None:
    began_s, worked_s, steps, number = time.monotonic(), time.process_time(), 0, 0
    while time.monotonic() - began_s < SECONDS_OF_SHARE:
        simulation = Simulation(f"{SEED}.{share}/{number}")
        try:
            steps += simulation.run()
        except Exception as error:
            raise AssertionError(f"{error}. To see its last steps: make simulate EPISODE={simulation.seed}") from error
        number += 1
    assert steps / (time.process_time() - worked_s) >= STEPS_A_SECOND_MIN


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_hold_wherever_the_seed_holds_somebody_up(scene: str) -> None:
    for number in range(EPISODES_OF_SCENE):
        try:
            episode(f"{SEED}/{number}", theme=scene).run()
        except Exception as error:
            again = f"python -m tests.simulator --theme {scene!r} --episode {SEED}/{number}"
            raise AssertionError(f"{error}. To see its last steps: {again}") from error


@pytest.mark.parametrize("number", range(3))
def test_an_episode_replays_in_another_process(number: int) -> None:
    """Whatever hashes strings get there."""
    seed = f"replay/{number}"
    simulation = Simulation(seed)
    steps = simulation.run()

    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulator", "--episode", seed],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == f"episode {seed} with {steps:,} steps: all held ({simulation.scheduler.digest()})\n"
