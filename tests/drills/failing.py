"""What drills of nodes that fail under much load share: waiting with a diary, what readers waited for, the check."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from consumers.applied import wait_until_applied
from consumers.audit import audit
from infra.composition import Stores
from infra.kafka_logs import agent_lags
from infra.stack.supervisor import Stack
from tests.drills.drill import Diary
from tests.drills.heavy_load import Seen, Size, percentile_ms
from tests.waiting import wait_until

APPLIED_WITHIN_S = 60.0
DIFFERENCES_SHOWN = 20
LAG_MAX = 100  # messages: about a second of the load
READ_SHARE_MIN = 0.25  # of the reads in quiet times: what was emptied is rebuilt meanwhile
REPAIRED_WITHIN_S = 30.0  # of the node's return, for 100,000 timelines


@dataclass
class Drill:
    """A stack, and what happened in it."""

    stack: Stack
    opened: Stores
    diary: Diary
    size: Size

    def wait(self, what: str, condition: Callable[[], bool], within_s: float) -> float:
        """Until the condition holds; returns when it does."""
        began_s = time.monotonic()
        wait_until(condition, what, within_s)
        self.diary.note(f"{what}, {time.monotonic() - began_s:.1f} s later")
        return time.monotonic()

    def keeps_up(self) -> bool:
        """Whether the agents are not behind, or hardly."""
        return sum(agent_lags(self.stack.settings().need("kafka_bootstrap")).values()) < LAG_MAX

    def note_reads(self, seen: Seen, quiet_s: tuple[float, float], trouble_s: tuple[float, float]) -> None:
        """What readers waited for before and during."""
        quiet, trouble = seen.reads_between(*quiet_s), seen.reads_between(*trouble_s)
        for name, reads, seconds in (("quiet", quiet, quiet_s), ("trouble", trouble, trouble_s)):
            rate = len(reads) / (seconds[1] - seconds[0])
            figures = ", ".join(f"p{share} {percentile_ms(reads, share):.1f} ms" for share in (50, 95, 99, 100))
            self.diary.note(f"{name}: {rate:,.0f} reads/s, {figures}")
        self.diary.note(f"p99 is {percentile_ms(trouble, 99) / max(percentile_ms(quiet, 99), 0.001):.1f} times that")

    def need_reads(self, seen: Seen, quiet_s: tuple[float, float], trouble_s: tuple[float, float]) -> None:
        """Readers were served all the time: none was refused, and there were not much fewer than before."""
        assert seen.refused == []
        before, during = (len(seen.reads_between(*span_s)) / (span_s[1] - span_s[0]) for span_s in (quiet_s, trouble_s))
        assert during > before * READ_SHARE_MIN, f"{during:.0f} reads a second after {before:.0f}"

    def check(self, seen: Seen, *, complete: bool = True) -> None:
        """No page was wrong, everything is applied, and every timeline in every cluster is as the database says.
        Unless it is to be `complete`, timelines may be absent: what was evicted comes back when it is read."""
        self.wait("all is applied", self._is_applied, APPLIED_WITHIN_S)
        self.wait("every copy serves again", self.all_serving, REPAIRED_WITHIN_S)
        result = audit(self.opened.engine, self.opened.timelines, complete=complete)
        self.diary.note(f"{len(seen.posted)} tweets, {len(seen.deleted)} deleted, {seen.waits} deletes called again")
        self.diary.note(f"{len(result.differences)} differences")
        print(self.diary.text())  # noqa: T201 - pytest shows it when a test fails, and with -s
        assert seen.wrong == []
        said = (self.stack.data_dir / "logs" / "coordinator.log").read_text(encoding="utf-8")
        assert "copies differ" not in said, "the comparison had something to mend"
        assert not result.differences, "\n".join(map(str, result.differences[:DIFFERENCES_SHOWN]))
        assert (result.clean, result.active_users) == (True, self.size.users)

    def _is_applied(self) -> bool:
        wait_until_applied(self.opened.engine, self.stack.settings().kafka_bootstrap, APPLIED_WITHIN_S)
        return True

    def all_serving(self) -> bool:
        return self.opened.clusters.shard_map.copies.all_serving

    def admitted_anew(self, before: dict[str, str]) -> bool:
        """Whether each of these nodes has been emptied since."""
        now = self.opened.clusters.shard_map.copies.incarnations
        return all(now.get(name, old) != old for name, old in before.items())

    def incarnations(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: self.opened.clusters.shard_map.copies.incarnations[name] for name in names}
