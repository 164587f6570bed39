"""The simulator is itself tested: it finds each way to break the product that mutants.py names."""

from collections.abc import Mapping

import pytest

from tests.simulator.mutants import MUTANTS, Mutant
from tests.simulator.oracle import Wrong
from tests.simulator.scenes import episode

STEPS_MAX = 1_500_000  # most are found within 100,000


# Where the search begins: the episode in which it was found, for those that take many. If the product changes so that
# another one finds it, the search goes on from there.
FOUND_IN: Mapping[str, int] = {
    "a copy from another cluster raises no mark": 544,
    "a merge that comes again brings what it brought then": 16,
    "a node is opened when it is admitted": 448,
    "body put back after a delete": 35,
    "call numbers not checked": 21,
    "fan-out does not wait for the last owner": 118,
    "fan-out without a claim": 44,
    "for a reader who is cut off one copy of a timeline is proof": 66,
    "slots move before readers know": 373,
    "unguarded rebuild": 10,
}


def test_where_a_search_begins_is_of_a_mutant() -> None:
    assert FOUND_IN.keys() <= {mutant.name for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_broken_product_is_found(mutant: Mutant) -> None:
    with mutant.active():
        steps, number = 0, FOUND_IN.get(mutant.name, 0)
        while steps < STEPS_MAX:
            simulation = episode(f"mutants/{number}", mutant.edits, theme=mutant.theme)
            try:
                steps += simulation.run()
            except Wrong:
                return
            number += 1
    raise AssertionError(f"{mutant.name}: nothing was found in {steps:,} steps")
