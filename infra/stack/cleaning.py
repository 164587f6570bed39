"""Ends what a killed supervisor left behind, by the (pid, create time) of stack.json. Idempotent.

Called by whoever holds the folder's lock, so nobody starts processes here at the same time.
"""

from pathlib import Path

from infra.stack.processes import end, group_members
from infra.stack.progress import Progress, Report
from infra.stack.state import forget, leftovers, load_record


def end_leftovers(data_dir: Path, report: Report) -> int:
    """Ends every process on record that still lives, the last started first; returns how many parts there were."""
    record = load_record(data_dir)
    ended = 0
    for part in leftovers(record.parts if record else ()):
        assert part.process is not None
        if group_members(part.process):
            report(Progress(part.name, "waiting", f"ending what was left of an earlier stack (pid {part.process.pid})"))
            end(part.process, part.stop_signal, part.stop_within_s)
            report(Progress(part.name, "done", f"was left of an earlier stack (pid {part.process.pid}): ended"))
            ended += 1
    forget(data_dir)
    return ended
