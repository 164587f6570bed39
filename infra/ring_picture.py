"""A picture of the rings in a terminal: one a cluster, side by side, within 80 columns and readable without colour.

A ring is all slots of its cluster, clockwise from the top, gathered by node: a node's arc is as long as its share. Its
letter is large where copies are serving and small where they are filling; what is down is `!`. However few the slots
of a node in one state are, they have a cell, so nothing that is wrong is too small to be seen.
"""

import math
from collections.abc import Sequence
from functools import cache

from rich.text import Text

from infra.shards_report import NodeReport

ROWS, COLUMNS, GAP = 13, 24, "  "  # of one ring: a terminal's cell is twice as high as wide; three have 76 columns
HOLE = 0.58  # of the radius: leaves room for three lines of 12 characters
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STYLES = ("cyan", "magenta", "green", "blue", "yellow")  # of neighbours; red is for what is down
DOWN, DOWN_STYLE = "!", "bold red"
LEGEND = f"A serving   a filling   {DOWN} down"

Arc = tuple[str, str, int]  # character, style, slots


def letter_of(place: int) -> str:
    """The letter of a cluster's n-th node; they begin anew after 26."""
    return LETTERS[place % len(LETTERS)]


def arcs_of(nodes: Sequence[NodeReport]) -> list[Arc]:
    """The arcs of a cluster's nodes, clockwise."""
    arcs = []
    for place, node in enumerate(nodes):
        letter, style = letter_of(place), STYLES[place % len(STYLES)]
        arcs += [
            (letter, style, node.serving),
            (letter.lower(), f"{style} dim", node.filling),
            (DOWN, DOWN_STYLE, node.down),
        ]
    return [arc for arc in arcs if arc[2]]


def cells_of(slots: Sequence[int], cells: int) -> list[int]:
    """How many cells each arc gets: in proportion, but at least one. There must not be more arcs than cells."""
    assert len(slots) <= cells, "a ring has too few cells for so many arcs"
    total = sum(slots)
    given = [max(1, part * cells // total) for part in slots]
    while sum(given) < cells:  # to whoever lacks most
        given[max(range(len(slots)), key=lambda at: slots[at] * cells / total - given[at])] += 1
    while sum(given) > cells:  # from whoever has most too many, and more than one
        spare = [at for at in range(len(slots)) if given[at] > 1]
        given[max(spare, key=lambda at: given[at] - slots[at] * cells / total)] -= 1
    return given


def ring(nodes: Sequence[NodeReport], middle: Sequence[str]) -> list[Text]:
    """One ring as `ROWS` lines of `COLUMNS` characters, with up to three short lines in its middle."""
    canvas = [[(" ", "")] * COLUMNS for _ in range(ROWS)]
    arcs, places = arcs_of(nodes), _cells()
    if len(arcs) <= len(places):
        sizes = cells_of([slots for *_, slots in arcs], len(places)) if arcs else []
        painted = [arc[:2] for arc, size in zip(arcs, sizes, strict=True) for _ in range(size)]
        for (row, column), cell in zip(places, painted or [(".", "dim")] * len(places), strict=True):
            canvas[row][column] = cell
    for row, line in enumerate(middle, start=(ROWS - len(middle)) // 2):
        for column, character in enumerate(line, start=(COLUMNS - len(line)) // 2):
            canvas[row][column] = (character, "bold")
    return [Text.assemble(*cells) for cells in canvas]


def side_by_side(rings: Sequence[Sequence[Text]]) -> list[Text]:
    """Rings of equal height as lines."""
    return [Text(GAP).join(row) for row in zip(*rings, strict=True)]


@cache
def _cells() -> tuple[tuple[int, int], ...]:
    """The cells of a ring, row and column, clockwise from the top."""
    found = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            x, y = (2 * column + 1 - COLUMNS) / COLUMNS, (2 * row + 1 - ROWS) / ROWS
            if HOLE < math.hypot(x, y) <= 1:
                found.append((math.atan2(x, -y) % math.tau, math.hypot(x, y), row, column))
    return tuple((row, column) for *_, row, column in sorted(found))
