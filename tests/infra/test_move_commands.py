"""What the commands of moves take for a weight."""

import pytest

from infra.errors import InvalidInput
from infra.move_commands import parse_weights


def test_weights_are_read_and_the_same_one_may_be_given_twice() -> None:
    assert parse_weights(["a1=2", "b7=100", "a1=2"]) == {"a1": 2, "b7": 100}


@pytest.mark.parametrize("text", ["a1", "a1=", "=2", "a1=0", "a1=101", "a1=-1", "a1=1.5", "a1=9999999999", "a1=²"])
def test_what_is_no_weight_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no weight: write NAME=N, N a whole number from 1 to 100"):
        parse_weights([text])


def test_two_weights_of_one_node_are_refused() -> None:
    with pytest.raises(InvalidInput, match="node a1 is given two weights, 2 and 3: leave one out"):
        parse_weights(["a1=2", "a1=3"])
