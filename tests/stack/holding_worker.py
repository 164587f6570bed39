"""A worker that stops at one place until it is told to go on, for test_fencing.py:

    python -m tests.stack.holding_worker DATA_DIR PLACE

It is the real worker, and only pauses. When DATA_DIR/hold is there as it comes to the place, it moves it to
DATA_DIR/held and goes on when DATA_DIR/go is found. Meanwhile its other threads go on, until the test freezes it; but
where fan_out is held, deliver stands still from then on: a node would refuse it too, and end the worker before the
broker does.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from infra import kafka
from infra.kafka import Claim, Message, TransactionalProducer, producer_config
from infra.logs import configure_logs
from infra.settings import load_settings
from streams import deliver
from streams.app import DeliverWork
from streams.deliver import Deliverer, Received
from streams.handling import Part
from streams.worker import run_worker

CALLS_BEFORE_HOLD = 3
LINGER_MS = 9_000  # a transaction lasts for 10 s at most, and a message no longer
HELD_S = 120.0
POLL_S = 0.05


class Place(StrEnum):
    """Where it holds."""

    PLANNED = "planned"  # a batch's chunks are being cut; their transaction has not begun
    BUFFERED = "buffered"  # the producer has them all in its buffer, and the commit will send them
    CHECKED = "checked"  # the broker has found the claim good; nothing is sent yet
    CALLING = "calling"  # some nodes have some calls of a run


def main() -> None:
    data_dir, place = Path(sys.argv[1]), Place(sys.argv[2])
    HOLDERS[place](lambda: hold(data_dir))
    if place is not Place.CALLING:
        keep_deliver_still(data_dir)
    settings = load_settings(os.environ, data_dir)
    configure_logs(settings)
    run_worker(settings)


def hold(data_dir: Path) -> None:
    try:
        (data_dir / "hold").rename(data_dir / "held")
    except FileNotFoundError:
        return
    pause = threading.Event()
    for _ in range(int(HELD_S / POLL_S)):
        if (data_dir / "go").exists():
            return
        pause.wait(POLL_S)


def keep_deliver_still(data_dir: Path) -> None:
    all_at_once, one = DeliverWork.together, DeliverWork.run

    def wait_if_held() -> None:
        if (data_dir / "held").exists():
            threading.Event().wait(HELD_S)

    def held_together(self: DeliverWork, parts: Sequence[Part[Received]]) -> bool:
        wait_if_held()
        return all_at_once(self, parts)

    def held_run(self: DeliverWork, part: Part[Received]) -> None:
        wait_if_held()
        one(self, part)

    DeliverWork.together = held_together  # type: ignore[method-assign]
    DeliverWork.run = held_run  # type: ignore[method-assign]


def hold_when_planned(held: Callable[[], None]) -> None:
    begin = TransactionalProducer.begin

    def holding(self: TransactionalProducer, claim: Claim | None = None) -> None:
        held()
        begin(self, claim)

    TransactionalProducer.begin = holding  # type: ignore[method-assign]


def hold_when_buffered(held: Callable[[], None]) -> None:
    finish = TransactionalProducer.finish

    def patient_config(bootstrap: str) -> dict[str, Any]:
        return producer_config(bootstrap) | {"linger.ms": LINGER_MS}

    def holding(self: TransactionalProducer, messages: Iterable[Message]) -> dict[kafka.Place, int]:
        return finish(self, then(messages, held))

    kafka.producer_config = patient_config
    TransactionalProducer.finish = holding  # type: ignore[method-assign]


def then(messages: Iterable[Message], held: Callable[[], None]) -> Iterator[Message]:
    """`finish` asks for one message more after it has handed the last one to the producer."""
    yield from messages
    held()


def hold_when_checked(held: Callable[[], None]) -> None:
    check = TransactionalProducer._check

    def holding(self: TransactionalProducer, claim: Claim) -> None:
        check(self, claim)
        held()

    TransactionalProducer._check = holding  # type: ignore[method-assign]


def hold_when_calling(held: Callable[[], None]) -> None:
    """Cuts a run into many calls, and holds before one in the middle."""
    call, made = Deliverer._call_nodes, Counter[int]()

    def holding(
        self: Deliverer, function: str, arguments: Mapping[str, Any], shard_map: Any, first_try: Mapping[str, Any] = {}
    ) -> Any:
        partition = self._partition
        if function == "apply" and arguments:
            if made[partition] == CALLS_BEFORE_HOLD:
                held()
            final = any(of_node[0] != deliver.NOT_FINAL for of_node in arguments.values())
            made[partition] = 0 if final else made[partition] + 1
        return call(self, function, arguments, shard_map, first_try)

    deliver.CALL_TARGETS_MIN = deliver.CALL_TARGETS_MAX = 1
    Deliverer._call_nodes = holding  # type: ignore[method-assign]


HOLDERS: Mapping[Place, Callable[[Callable[[], None]], None]] = {
    Place.PLANNED: hold_when_planned,
    Place.BUFFERED: hold_when_buffered,
    Place.CHECKED: hold_when_checked,
    Place.CALLING: hold_when_calling,
}

if __name__ == "__main__":
    main()
