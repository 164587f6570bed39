"""Copies: the state of each slot on the node that holds it, and who may write a node that is known by which
incarnation.

The znode is written by compare-and-set only: by the coordinator, and by whoever could not write a node and marks all of
its copies `down` before the write counts as done. Next: shard_map.py.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from infra.slots import SLOTS


class CopyState(StrEnum):
    """serving: readers prefer it. filling: it may be read, since absent is safe, and is written; much is absent still.
    down: it missed a write, or may have; nobody reads it before its node was emptied and admitted again."""

    SERVING = "s"
    FILLING = "f"
    DOWN = "d"

    def may_become(self, other: "CopyState") -> bool:
        """Whether this step is allowed. What is down was never whole again by itself: it has to be filled first."""
        return other in _STEPS[self]


# A node that restarted is filling at once: it is empty, and missed nothing that it could show.
_STEPS = {
    CopyState.SERVING: {CopyState.SERVING, CopyState.FILLING, CopyState.DOWN},
    CopyState.FILLING: {CopyState.FILLING, CopyState.SERVING, CopyState.DOWN},
    CopyState.DOWN: {CopyState.DOWN, CopyState.FILLING},
}

States = Mapping[str, str]  # of each cluster one letter a slot


@dataclass(frozen=True)
class Copies:
    """All copies under the placement of one epoch. `incarnations` has what each node is admitted with; `dropped` has
    the last one that was admitted and is not any more: that node has to be emptied, and gets a new one."""

    epoch: int
    states: States
    incarnations: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict)

    def of(self, cluster: str, slot: int) -> CopyState:
        """One copy's state."""
        return CopyState(self.states[cluster][slot])

    def changed(self, cluster: str, slots: Iterable[int], state: CopyState) -> "Copies":
        """The same with these copies in another state. Raises `ValueError` for a step that is not allowed."""
        letters = list(self.states[cluster])
        for slot in slots:
            before = CopyState(letters[slot])
            if not before.may_become(state):
                raise ValueError(
                    f"the copy of slot {slot} in cluster {cluster} is {before.name.lower()} and cannot become "
                    f"{state.name.lower()}: it has to be filled first"
                )
            letters[slot] = state.value
        return replace(self, states={**self.states, cluster: "".join(letters)})

    def with_node(self, name: str, slots: Iterable[int], incarnation: str) -> "Copies":
        """The same with an emptied node admitted: it holds these slots, and nothing in them yet."""
        filling = self.changed(name[0], slots, CopyState.FILLING)
        return replace(filling, incarnations={**self.incarnations, name: incarnation})

    def without_node(self, name: str, slots: Iterable[int]) -> "Copies":
        """The same with a node dropped: it missed a write, or may have, so all that it holds is down."""
        down = self.changed(name[0], slots, CopyState.DOWN)
        if (incarnation := self.incarnations.get(name)) is None:
            return down
        others = {one: kept for one, kept in self.incarnations.items() if one != name}
        return replace(down, incarnations=others, dropped={**self.dropped, name: incarnation})

    def with_dropped(self, name: str, incarnation: str) -> "Copies":
        """The same with an incarnation that nobody vouches for: its node may hold what is old."""
        return replace(self, dropped={**self.dropped, name: incarnation})

    def needs_emptying(self, name: str, incarnation: str) -> bool:
        """Whether a node that has this incarnation was dropped: its registrar empties it."""
        return self.dropped.get(name) == incarnation

    @cached_property
    def all_serving(self) -> bool:
        """Whether no copy is filling or down."""
        return all(map(self.serves_whole, self.states))

    def serves_whole(self, cluster: str) -> bool:
        """The same of one cluster."""
        return self.states[cluster].count(CopyState.SERVING) == len(self.states[cluster])

    @cached_property
    def in_use(self) -> tuple[int, ...]:
        """For each slot how many of its copies are serving or filling."""
        return tuple(
            sum(letter != CopyState.DOWN for letter in letters) for letters in zip(*self.states.values(), strict=True)
        )

    def encode(self) -> bytes:
        """The znode's bytes."""
        value = {
            "version": 1,
            "epoch": self.epoch,
            "states": dict(self.states),
            "incarnations": dict(self.incarnations),
            "dropped": dict(self.dropped),
        }
        return json.dumps(value, sort_keys=True).encode()

    @staticmethod
    def decode(data: bytes) -> "Copies":
        """The inverse. Raises `ValueError` for anything else."""
        value = json.loads(data)
        if value.get("version") != 1:
            raise ValueError(f"the copies have version {value.get('version')!r}, and this code reads version 1")
        for cluster, letters in value["states"].items():
            if len(letters) != SLOTS or set(letters) - set(CopyState):
                raise ValueError(f"cluster {cluster} has no {SLOTS} states of copies: {letters[:20]!r}…")
        return Copies(value["epoch"], value["states"], value["incarnations"], value["dropped"])


def all_copies(
    epoch: int, clusters: Iterable[str], state: CopyState, incarnations: Mapping[str, str] | None = None
) -> Copies:
    """Every copy in one state."""
    return Copies(epoch, dict.fromkeys(clusters, state.value * SLOTS), dict(incarnations or {}))
