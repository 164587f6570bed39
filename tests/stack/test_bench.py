"""The benchmarks as a user runs them, small: one object with every key, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from consumers.audit import audit
from infra.composition import stores
from infra.stack.supervisor import Stack
from tests.waiting import wait_until

WITHIN_S = 240.0
SMALL = ("--timelines", "300", "--entries", "64", "--fan-out", "20")


def command(data_dir: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "infra", "--data-dir", str(data_dir), "bench", *words]


def run(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(data_dir, *words), capture_output=True, text=True, timeout=WITHIN_S, check=False)


def processes_of(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.pid != os.getpid():
            found.append(line)
    return found


def test_deliveries_prints_one_object_with_limits_of_the_same_run_and_a_clean_audit(tmp_path: Path) -> None:
    done = run(tmp_path, "deliveries", *SMALL, "--tweets", "400", "--runs", "1", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for key in ("deliveries_per_s", "limit_per_s", "blind_limit_per_s", "plain_per_s", "ratio"):
        assert found[key] > 0, key
    assert (found["copies"], found["workers"], found["tweets"]) == (3, 1, 400)
    assert found["ratio"] == pytest.approx(found["deliveries_per_s"] / found["limit_per_s"], abs=0.01)
    assert found["live"]["deliveries_per_s"] > 0
    for differences in (found["audit"], found["live"]["audit"]):
        assert differences["timelines"] == 3 * 300
        assert {differences[name] for name in ("missing", "duplicate", "unexpected", "misordered", "absent")} == {0}
    assert not (tmp_path / "bench").exists()
    assert processes_of(tmp_path) == []


def test_repair_fills_an_emptied_cluster_from_another_one_and_from_the_database(tmp_path: Path) -> None:
    done = run(tmp_path, "repair", *SMALL, "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["users_copied"], found["database_users_copied"]) == (300, 0)
    assert found["restored_entries"] == found["database_restored_entries"] >= 300 * 64
    for prefix in ("", "database_"):
        for key in ("entries_per_s", "timelines_per_s", "took_s"):
            assert found[f"{prefix}{key}"] > 0, key
        differences = found[f"{prefix}audit"]
        assert differences["timelines"] == 3 * 300
        assert {differences[name] for name in ("missing", "duplicate", "unexpected", "misordered", "absent")} == {0}
    assert not (tmp_path / "bench").exists()


def test_latency_prints_percentiles_when_idle_and_at_half_of_the_maximum(tmp_path: Path) -> None:
    done = run(tmp_path, "latency", *SMALL, "--seconds", "3", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for phase in ("idle", "half_load"):
        one = found[phase]
        assert 0 < one["latency_ms_p50"] <= one["latency_ms_p99"] <= one["latency_ms_p999"]
        assert one["chunks"] >= one["tweets"] > 0
    assert found["half_load"]["tweets_per_s"] == pytest.approx(found["maximum_tweets_per_s"] / 2, rel=0.02)
    assert found["audit"]["missing"] == 0


def test_publish_prints_each_figure_for_both_kinds_of_authors_with_a_clean_audit(tmp_path: Path) -> None:
    done = run(tmp_path, "publish", "--tweets", "2000", "--seconds", "1", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for kind in (found, found["followers_100"]):
        for key in ("post_many_per_s", "post_per_s", "http_posts_per_s", "http_client_cpu_share"):
            assert kind[key] > 0, key
        assert 0 < kind["http_latency_ms_p50"] <= kind["http_latency_ms_p99"]
        assert kind["http_refused"] == 0
    slower = min(found["insert_limit_per_s"], found["produce_limit_per_s"])
    assert found["ratio"] == pytest.approx(found["post_many_per_s"] / slower, abs=0.002)
    assert 0 < found["to_kafka_ms_p50"] <= found["to_kafka_ms_p99"]
    assert 0 <= found["relay_idle_cpu_share"] < 1
    assert found["durability"] == {"fsync": "on", "synchronous_commit": "on", "acks": "all"}
    assert {found["audit"][name] for name in ("missing", "duplicate", "unexpected", "misordered", "absent")} == {0}
    assert processes_of(tmp_path) == []


def test_read_prints_rates_beside_their_limits_latencies_and_a_clean_audit(tmp_path: Path) -> None:
    done = run(tmp_path, "read", *SMALL, "--followees", "300", "--seconds", "1", "--runs", "1", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for key in ("reads_per_s", "limit_per_s", "celebrity_reads_per_s", "celebrity_limit_per_s", "deliveries_per_s"):
        assert found[key] > 0, key
    assert found["ratio"] == pytest.approx(found["reads_per_s"] / found["limit_per_s"], abs=0.01)
    assert found["celebrity_ratio"] == pytest.approx(found["celebrity_reads_per_s"] / found["limit_per_s"], abs=0.01)
    assert found["latency_reads_per_s"] == pytest.approx(found["reads_per_s"] / 2, abs=1)
    for key in ("latency_ms", "rebuild_ms"):
        assert 0 < found[f"{key}_p50"] <= found[f"{key}_p99"]
    assert found["many_followees_rebuild_ms_p50"] > 0
    assert {found["audit"][name] for name in ("missing", "duplicate", "unexpected", "misordered", "absent")} == {0}
    assert not (tmp_path / "bench").exists()
    assert processes_of(tmp_path) == []


def test_replay_prints_a_rate_with_a_clean_audit_and_what_was_missing_is_back(tmp_path: Path) -> None:
    done = run(tmp_path, "replay", *SMALL, "--tweets", "50", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["entries_per_s"] > 0
    assert found["entries"] > found["events"] == 50
    assert found["damaged"] > 0
    assert {found["audit"][name] for name in ("missing", "duplicate", "unexpected", "misordered", "absent")} == {0}
    assert not (tmp_path / "bench").exists()


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tmp_path, "deliveries", *SMALL), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as bench:
        assert bench.stderr is not None
        for line in bench.stderr:
            if "writing" in line:
                break
        bench.send_signal(signal.SIGINT)
        said = bench.stderr.read()
        assert bench.wait(60) == 130

    assert "interrupted" in said
    assert not (tmp_path / "bench").exists()
    wait_until(lambda: not processes_of(tmp_path), "the end of all processes", 10.0)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("deliveries", "--timelines", "2000000"), 3, "2,000,000 timelines of 480 entries"),
        (("deliveries", "--running"), 2, "--running has no backlog form"),
        (("deliveries", "--entries", "801"), 2, "less than or equal to 800"),
        (("deliveries", "--running", "--form", "live"), 3, "FANFOLD_"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_starts(
    tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = run(tmp_path, *words)

    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bench").exists()


def test_on_a_stack_that_runs_nothing_is_left_that_the_database_does_not_have(tmp_path: Path) -> None:
    """Somebody else's stack: its audit is clean afterwards, and a second run refuses the first one's users."""
    live = ("deliveries", *SMALL, "--running", "--form", "live", "--runs", "1", "--tweets", "100", "--json")
    with Stack(tmp_path) as stack:
        with stores(stack.settings()) as opened:
            opened.clusters.node("a1").command("CONFIG", "SET", "maxmemory", "50mb")
        done = run(tmp_path, *live)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["live"]["deliveries_per_s"] > 0, found["ratio"], found["limits"]) == (True, None, {})
        with stores(stack.settings()) as opened:
            assert audit(opened.engine, opened.timelines, complete=True).clean
            assert opened.clusters.node("a1").command("CONFIG", "GET", "maxmemory")[1] == b"52428800"

        again = run(tmp_path, *live)

    assert again.returncode == 2
    assert "holds 300 users already" in again.stderr
