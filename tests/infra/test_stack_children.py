"""Children of the stack, with small Python programs in the place of servers: started, restarted, given up, ended."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import StackError
from infra.readiness import EXIT_NOT_AGAIN, EXIT_UNFINISHED
from infra.stack.cleaning import end_leftovers
from infra.stack.crew import Crew
from infra.stack.part import Part
from infra.stack.processes import (
    OLD_LOGS,
    SAME_PROCESS_S,
    ProcessId,
    bound_log,
    end,
    group_members,
    identify,
    is_alive,
    rotate_log,
    same_process,
    tail,
)
from infra.stack.progress import Progress, render, silent
from infra.stack.restarts import ENDS_MAX, FIRST_WAIT_S, WAIT_S_MAX, WINDOW_S, wait_before_restart_s
from infra.stack.state import PartState, load_record
from tests.waiting import wait_until

STAY = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAY}"
DIE = "print('the disk is full', flush=True); raise SystemExit(7)"


def part(name: str, program: str, *, ready: bool = True, within_s: float = 20.0) -> Part:
    return Part(
        name=name,
        kind="server",
        command=(sys.executable, "-c", program),
        address="127.0.0.1:1",
        probe=lambda _pid: ready,
        ready_within_s=within_s,
        stop_within_s=0.5,
    )


@pytest.fixture
def told() -> list[Progress]:
    return []


@pytest.fixture
def crew(tmp_path: Path, told: list[Progress]) -> Iterator[Crew]:
    crew = Crew(tmp_path, threading.Event(), told.append)
    yield crew
    crew.close(silent)


def test_parts_are_started_together_reported_in_order_and_on_record(
    crew: Crew, tmp_path: Path, told: list[Progress]
) -> None:
    crew.launch([part("first", STAY), part("second", STAY)])
    assert [progress.name for progress in told if progress.kind == "done"] == ["first", "second"]
    record = load_record(tmp_path)
    assert record is not None
    assert [(one.name, one.state) for one in record.parts] == [("first", "running"), ("second", "running")]
    assert all(one.process is not None and is_alive(one.process) for one in record.parts)


def test_a_part_that_dies_at_start_is_shown_with_the_end_of_its_log(crew: Crew) -> None:
    with pytest.raises(StackError) as failed:
        crew.launch([part("slow", STAY, ready=False), part("broken", DIE, ready=False)])
    assert "broken ended with exit code 7 while it started" in str(failed.value)
    assert "the disk is full" in str(failed.value)


def test_a_part_that_is_never_ready_fails_within_its_bound(crew: Crew) -> None:
    with pytest.raises(StackError, match=r"stuck was not ready within 0 s"):
        crew.launch([part("stuck", STAY, ready=False, within_s=0.2)])


def test_a_program_that_is_not_there_is_one_clear_sentence(crew: Crew) -> None:
    missing = Part("gone", "server", ("/nowhere/program",), "", lambda _pid: True, 5.0)
    with pytest.raises(StackError, match="gone cannot be started"):
        crew.launch([missing])


def test_a_request_to_stop_breaks_off_a_start(tmp_path: Path) -> None:
    asked = threading.Event()
    crew = Crew(tmp_path, asked, silent)
    asked.set()
    with pytest.raises(StackError, match="stopped before everything was ready"):
        crew.launch([part("slow", STAY, ready=False)])
    crew.close(silent)


def test_a_part_that_is_killed_is_started_again_and_said_so(crew: Crew, told: list[Progress]) -> None:
    crew.launch([part("server", STAY)])
    crew.begin_watch()
    child = crew.child("server")
    killed = child.signal(signal.SIGKILL)
    wait_until(lambda: child.state is PartState.RUNNING and child.process is not None and child.process.pid != killed)
    assert child.restarts == 1
    assert any("was ended by SIGKILL; it is started again" in progress.text for progress in told)


def test_a_part_that_ends_again_and_again_is_given_up(tmp_path: Path, told: list[Progress]) -> None:
    crew = Crew(tmp_path, threading.Event(), told.append)
    crew.launch([part("server", STAY)])
    child = crew.child("server")
    now_s = 1_000.0
    for _ in range(ENDS_MAX + 1):
        child.signal(signal.SIGKILL)
        wait_until(lambda: child.exit_code() is not None)
        said = child.tend(now_s)
        child.tend(now_s + WAIT_S_MAX)
        child.tend(now_s + WAIT_S_MAX)
    assert said is not None
    assert "not started again" in said
    assert child.state is PartState.FAILED
    crew.close(silent)


def test_a_part_that_asks_for_another_start_while_it_starts_gets_it_until_its_time_is_over(
    crew: Crew, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    tries.touch()
    asks = f"""
with open({str(tries)!r}, "a") as file:
    print("try", file=file)
if len(open({str(tries)!r}).read().split()) < 3:
    raise SystemExit({EXIT_UNFINISHED})
"""
    third = replace(part("worker", asks + STAY), probe=lambda _pid: len(tries.read_text().split()) == 3)
    crew.launch([third])
    assert crew.child("worker").state is PartState.RUNNING
    never = f"print('no partitions yet', flush=True); raise SystemExit({EXIT_UNFINISHED})"
    with pytest.raises(StackError, match=rf"within 3 s, and .* code {EXIT_UNFINISHED} \d+ times") as caught:
        crew.launch([part("relay", never, ready=False, within_s=3.0)])
    assert "no partitions yet" in str(caught.value)  # the last try may have had no time to say anything


def test_a_part_that_asks_for_another_start_while_it_is_started_again_gets_it_within_the_same_time(
    tmp_path: Path, told: list[Progress]
) -> None:
    asking, ready = tmp_path / "asking", tmp_path / "ready"
    ready.touch()
    program = f"import os\nif os.path.exists({str(asking)!r}): raise SystemExit({EXIT_UNFINISHED})\n{STAY}"
    crew = Crew(tmp_path, threading.Event(), told.append)
    crew.launch([replace(part("worker", program, within_s=30.0), probe=lambda _pid: ready.exists())])
    child, now_s = crew.child("worker"), 1_000.0
    asking.touch()
    ready.unlink()
    child.signal(signal.SIGKILL)
    wait_until(lambda: child.exit_code() is not None)
    child.tend(now_s)
    for tries in range(2 * ENDS_MAX):
        child.tend(now_s + WAIT_S_MAX)
        wait_until(lambda: child.exit_code() is not None)
        assert (child.state, child.unfinished) == (PartState.RESTARTING, tries)
    said = child.tend(now_s + WAIT_S_MAX + 30.0)
    assert said is not None
    assert said.startswith(f"ended with exit code {EXIT_UNFINISHED} while it started; it is started again in ")
    assert child.unfinished == 0

    asking.unlink()
    ready.touch()
    wait_until(lambda: child.tend(now_s + 3 * WAIT_S_MAX + 30.0) is not None or child.state is PartState.RUNNING)
    assert child.state is PartState.RUNNING
    crew.close(silent)


def test_a_part_that_says_no_start_would_help_is_not_started_again_and_its_reason_is_shown(
    crew: Crew, told: list[Progress]
) -> None:
    words = "all messages fail; mend the cause"
    program = f"import sys, time; time.sleep(0.3); print({words!r}, flush=True); sys.exit({EXIT_NOT_AGAIN})"
    crew.launch([part("worker", program)])
    crew.begin_watch()
    child = crew.child("worker")
    wait_until(lambda: any("not started again" in progress.text for progress in told))
    assert (child.state, child.restarts) == (PartState.FAILED, 0)
    [said] = [progress.text for progress in told if "not started again" in progress.text]
    assert said.startswith(f"ended with exit code {EXIT_NOT_AGAIN}, which says that another start would not help")
    assert words in said


def test_a_part_that_is_not_wanted_any_more_stays_stopped(crew: Crew) -> None:
    crew.launch([part("server", STAY)])
    crew.begin_watch()
    child = crew.child("server")
    child.wanted = False
    child.signal(signal.SIGKILL)
    wait_until(lambda: child.state is PartState.STOPPED)
    assert child.process is None


@pytest.mark.parametrize(
    ("ends_ago_s", "wait_s"),
    [
        ([0], FIRST_WAIT_S),
        ([1, 0], 2 * FIRST_WAIT_S),
        ([4, 3, 2, 1, 0], WAIT_S_MAX),
        ([5, 4, 3, 2, 1, 0], None),
        ([WINDOW_S + 5, WINDOW_S + 4, 3, 2, 1, 0], 8 * FIRST_WAIT_S),
    ],
)
def test_the_wait_before_a_restart_grows_and_ends_within_the_window(
    ends_ago_s: list[float], wait_s: float | None
) -> None:
    assert wait_before_restart_s([500.0 - ago for ago in ends_ago_s], 500.0) == wait_s


def test_the_limits_of_restarting_fit_together() -> None:
    waits = [min(FIRST_WAIT_S * 2**n, WAIT_S_MAX) for n in range(ENDS_MAX)]
    assert sum(waits) < WINDOW_S / 2, "a part must be given up while its first end still counts"


def test_a_process_is_known_by_its_pid_and_when_it_was_made() -> None:
    known = ProcessId(5, 100.0)
    assert same_process(known, ProcessId(5, 100.0 + SAME_PROCESS_S / 2))
    assert not same_process(known, ProcessId(5, 100.0 + 2 * SAME_PROCESS_S))
    assert not same_process(known, None)


def test_a_process_that_ignores_the_request_is_killed_with_its_children() -> None:
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STAY!r}]); {STUBBORN}"
    leader = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    known = identify(leader.pid)
    assert known is not None
    wait_until(lambda: len(group_members(known)) == 2)
    members = group_members(known)
    end(known, signal.SIGTERM, within_s=0.3)
    leader.wait()
    wait_until(lambda: not any(is_alive(member) for member in members))


def test_a_frozen_process_can_be_stopped() -> None:
    leader = subprocess.Popen([sys.executable, "-c", STAY], start_new_session=True, stdout=subprocess.PIPE)
    known = identify(leader.pid)
    assert known is not None
    assert leader.stdout is not None
    leader.stdout.readline()
    leader.send_signal(signal.SIGSTOP)
    end(known, signal.SIGTERM, within_s=10)
    assert leader.wait() == -signal.SIGTERM
    leader.stdout.close()


def test_what_a_killed_supervisor_left_is_ended_but_a_pid_used_again_is_not(crew: Crew, tmp_path: Path) -> None:
    crew.launch([part("server", STAY)])
    process = crew.child("server").id
    assert process is not None
    path = tmp_path / "stack.json"
    record = path.read_text()
    path.write_text(record.replace(str(process.created_s), str(process.created_s + 1_000)))
    assert end_leftovers(tmp_path, silent) == 0
    assert is_alive(process)
    path.write_text(record)
    assert end_leftovers(tmp_path, silent) == 1
    assert not is_alive(process)
    assert not path.exists()


def test_a_log_holds_one_run_and_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a1.log"
    rotate_log(log)
    log.write_text("first run\n")
    rotate_log(log)
    with log.open("a") as writer:
        writer.write("x" * 100)
        writer.flush()
        bound_log(log, bytes_max=50)
        writer.write("after")
    assert log.read_text() == "after"
    assert log.with_name("a1.log.1").read_text() == "x" * 100


def test_the_logs_of_some_runs_before_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a1.log"
    for run in range(OLD_LOGS + 3):
        rotate_log(log)
        log.write_text(f"run {run}\n")

    kept = {path.name: path.read_text() for path in log.parent.iterdir()}
    assert kept == {"a1.log": "run 5\n", "a1.log.1": "run 4\n", "a1.log.2": "run 3\n", "a1.log.3": "run 2\n"}


def test_the_end_of_a_log_is_its_last_lines_and_an_empty_one_says_so(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert "empty" in tail(log)
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    assert tail(log, lines=2) == "    line 98\n    line 99"


def test_progress_is_overwritten_on_a_terminal_and_only_results_are_kept_elsewhere() -> None:
    waiting, done = Progress("kafka", "waiting", "starting"), Progress("kafka", "done", "ready")
    assert render(waiting, live=False) == ""
    assert render(done, live=False) == "  kafka        ready\n"
    assert render(waiting, live=True).startswith("\r")
    assert not render(waiting, live=True).endswith("\n")
