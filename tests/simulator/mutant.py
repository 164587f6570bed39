"""A mutant: one way to break the product.

It edits the text of lua/timelines.lua, or puts another function in the place of one of the product's.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tests.simulator.lua_library import Edits

Patch = tuple[Any, str, Any]  # where, what, and what to put there


@dataclass(frozen=True)
class Mutant:
    """One way to break it."""

    name: str
    theme: str  # of the episodes that look for it, or the scene that does
    edits: Edits = ()
    patches: Sequence[Patch] = ()

    @contextmanager
    def active(self) -> Iterator[None]:
        """The product is broken meanwhile; the edits are for whoever loads the library."""
        with ExitStack() as stack:
            for where, what, value in self.patches:
                stack.enter_context(patch.object(where, what, value))
            yield
