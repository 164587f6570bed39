"""The simulator is itself tested: it finds each way to break the product that mutants.py names."""

import pytest

from tests.simulator.mutants import MUTANTS, Mutant
from tests.simulator.oracle import Wrong
from tests.simulator.simulation import Simulation

STEPS_MAX = 1_500_000  # most are found within 100,000


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_broken_product_is_found(mutant: Mutant) -> None:
    with mutant.active():
        steps = number = 0
        while steps < STEPS_MAX:
            simulation = Simulation(f"mutants/{number}", mutant.edits, theme=mutant.theme)
            try:
                steps += simulation.run()
            except Wrong:
                return
            number += 1
    raise AssertionError(f"{mutant.name}: nothing was found in {steps:,} steps")
