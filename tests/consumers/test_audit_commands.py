"""`fanfold audit`: what it prints and how it ends. Comparing itself is tested on real servers."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner, Result

from consumers import audit_commands
from consumers.applied import WAIT_S
from consumers.audit_caches import CacheResult
from consumers.audit_counts import CountsResult
from consumers.audit_report import AuditResult, Counts
from infra.errors import CheckFailed, InvalidInput
from infra.settings import Settings

CLEAN = AuditResult(2, dict.fromkeys("abc", Counts(timelines=2, entries=1_234)), (), complete=True)
WRONG = AuditResult(
    2, {"a": Counts(timelines=1, entries=3, missing=1, absent=1)}, ("user 42, cluster a: tweet 1 is missing",), True
)

RIGHT = CountsResult(7, 21, 0, dict.fromkeys("abc", 0), ())
MISCOUNTED = CountsResult(7, 21, 1, {"a": 0, "b": 2, "c": 0}, ("tweet 5, row: counts are wrong",))

HELD = CacheResult({"user_timelines": {"held": 4, "wrong": 0}, "bodies": {"held": 5_000, "wrong": 0}}, ())
SPOILT = CacheResult({"bodies": {"held": 5, "wrong": 2}}, ("cluster b, tweet 5: there is a body, but it was deleted",))

Fanfold = Callable[..., Result]


@pytest.fixture
def calls() -> list[object]:
    """What the command asked for: the limit of the wait, then the audit's options."""
    return []


@pytest.fixture
def fanfold(monkeypatch: pytest.MonkeyPatch, calls: list[object]) -> Fanfold:
    """The command line with an audit that answers `result`."""

    @contextmanager
    def no_stores(_: Settings) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(engine=None, timelines=None, clusters=None)

    def run(
        *arguments: str, result: AuditResult = CLEAN, counts: CountsResult = RIGHT, caches: CacheResult = HELD
    ) -> Result:
        def answer(*_: object, sample: int | None, complete: bool, progress: Callable[[int, int], None]) -> AuditResult:
            progress(2, 2)
            calls.append((sample, complete))
            return result

        monkeypatch.setattr(audit_commands, "audit", answer)
        monkeypatch.setattr(audit_commands, "audit_counts", lambda *_, sample: counts)
        monkeypatch.setattr(audit_commands, "audit_caches", lambda *_, sample, progress: caches)
        app = typer.Typer()
        app.callback()(lambda: None)
        app.command("audit")(audit_commands.audit_command)
        return CliRunner().invoke(app, ["audit", *arguments], obj=Settings(kafka_bootstrap="kafka:1"))

    monkeypatch.setattr(audit_commands, "stores", no_stores)
    monkeypatch.setattr(audit_commands, "wait_until_applied", lambda *given: calls.append(given[2]))
    monkeypatch.setattr(audit_commands, "wait_until_folded", lambda *given: calls.append(("folded", given[2])))
    return run


def test_json_is_exactly_one_object(fanfold: Fanfold) -> None:
    done = fanfold("--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {**CLEAN.as_json(), "caches": HELD.as_json(), "counts": RIGHT.as_json()}


def test_people_get_a_table(fanfold: Fanfold) -> None:
    done = fanfold()
    assert "every timeline is exact" in done.stdout
    assert "the counts of all 7 tweets are right" in done.stdout
    assert "what else the clusters hold is right: 4 user timelines, 5,000 bodies" in done.stdout
    assert "3,702" in done.stdout  # entries in all clusters


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_differences_are_printed_and_then_fail_the_check(fanfold: Fanfold, arguments: tuple[str, ...]) -> None:
    done = fanfold(*arguments, result=WRONG)
    assert "user 42, cluster a: tweet 1 is missing" in done.stdout
    assert isinstance(done.exception, CheckFailed)
    assert str(done.exception) == (
        "the audit found 1 difference between timelines and database, and 1 absent timeline of an active user"
    )


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_differences_in_what_else_is_held_fail_the_check_too(fanfold: Fanfold, arguments: tuple[str, ...]) -> None:
    done = fanfold(*arguments, caches=SPOILT)
    assert "tweet 5: there is a body, but it was deleted" in done.stdout
    assert isinstance(done.exception, CheckFailed)
    assert str(done.exception) == "the audit found 2 differences in what else the clusters hold"
    if arguments:
        assert json.loads(done.stdout)["clean"] is False


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_wrong_counts_fail_the_check_too(fanfold: Fanfold, arguments: tuple[str, ...]) -> None:
    done = fanfold(*arguments, counts=MISCOUNTED)
    assert "tweet 5, row: counts are wrong" in done.stdout
    assert isinstance(done.exception, CheckFailed)
    assert str(done.exception) == "the audit found 3 wrong counts of tweets"
    if arguments:
        assert json.loads(done.stdout)["clean"] is False


def test_the_options_reach_the_wait_and_the_audit(fanfold: Fanfold, calls: list[object]) -> None:
    fanfold("--sample", "5", "--complete", "--wait-s", "7")
    fanfold("--all")
    assert calls == [
        *(7.0, ("folded", 7.0), (5, True), ("folded", 7.0)),
        *(WAIT_S, ("folded", WAIT_S), (None, False), ("folded", WAIT_S)),
    ]


def test_all_and_a_sample_exclude_each_other(fanfold: Fanfold, calls: list[object]) -> None:
    assert isinstance(fanfold("--all", "--sample", "5").exception, InvalidInput)
    assert not calls
