"""A worker whose handlers fail, for test_bad_messages.py: `python -m tests.stack.failing_worker DATA_DIR`.

It is the real worker; only what the agents call for a batch is wrapped.
"""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from infra.events import Activity
from infra.logs import configure_logs
from infra.settings import load_settings
from streams.app import DeliverWork, FanOutWork
from streams.deliver import Received
from streams.handling import Part
from streams.worker import run_worker

FAILING_AUTHOR = 9_001  # each of whose events fails
HELD_AUTHOR = 9_002  # the same, after DATA_DIR/held was written and DATA_DIR/go was found
WHOLE_BATCH_PARTITION = 3  # of deliveries: every batch of more than one message fails
HELD_S = 60.0


def main() -> None:
    data_dir = Path(sys.argv[1])
    fan_out, deliver = FanOutWork.run, DeliverWork.run
    together = FanOutWork.together

    def refuse(decoded: Sequence[Activity]) -> None:
        authors = {event.author_id for event in decoded}
        if HELD_AUTHOR in authors:
            hold(data_dir)
        if authors & {FAILING_AUTHOR, HELD_AUTHOR}:
            raise LookupError(f"this handler cannot take a batch of {len(decoded)}")

    def failing_fan_out(self: FanOutWork, part: Part[Activity]) -> None:
        refuse(part.decoded)
        fan_out(self, part)

    def failing_together(self: FanOutWork, parts: Sequence[Part[Activity]]) -> bool:
        refuse([event for part in parts for event in part.decoded])
        return together(self, parts)

    def failing_deliver(self: DeliverWork, part: Part[Received]) -> None:
        if part.partition == WHOLE_BATCH_PARTITION and len(part.decoded) > 1:
            raise LookupError(f"this handler cannot take a batch of {len(part.decoded)}")
        deliver(self, part)

    FanOutWork.run, DeliverWork.run = failing_fan_out, failing_deliver  # type: ignore[method-assign]
    FanOutWork.together = failing_together  # type: ignore[method-assign]
    settings = load_settings(os.environ, data_dir)
    configure_logs(settings)
    run_worker(settings)


def hold(data_dir: Path) -> None:
    (data_dir / "held").touch()
    pause = threading.Event()
    for _ in range(int(HELD_S / 0.05)):
        if (data_dir / "go").exists():
            return
        pause.wait(0.05)


if __name__ == "__main__":
    main()
