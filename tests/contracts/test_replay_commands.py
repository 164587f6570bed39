"""`fanfold replay` on real servers: what it would do, what it does, its jobs, and a sentence for each mistake."""

import json
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner, Result

from infra.composition import Stores
from infra.errors import Conflict, FanfoldError, InvalidInput, NotFound
from infra.log_reader import LogWatch
from infra.replay_commands import replays
from infra.replay_jobs import Jobs, Plan, State
from infra.replay_what import Source, What
from infra.settings import Settings
from producers.publish import NewTweet, Publisher, need_all
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
DATABASE = ("--source", "database")


@pytest.fixture
def topic(settings: Settings) -> Iterator[str]:
    name = f"backfill-{secrets.token_hex(4)}"
    yield name
    AdminClient({"bootstrap.servers": settings.kafka_bootstrap}).delete_topics([name])


@pytest.fixture
def author(publisher: Publisher, make_users: MakeUsers) -> int:
    """Of 40 tweets, and two followers."""
    made, *others = make_users(3)
    publisher.follow_many([(other, made) for other in others])
    need_all(publisher.post_many([NewTweet(made, f"{number}") for number in range(40)]))
    return made


def fanfold(settings: Settings, *words: str) -> Result:
    return CliRunner().invoke(replays, list(words), obj=settings)


def result_of(done: Result) -> dict[str, object]:
    assert done.exit_code == 0, done.stderr or done.exception
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]  # logs of this process are beside it
    found: dict[str, object] = json.loads(line)
    return found


def test_without_execute_it_only_says_what_it_would_do(stores: Stores, settings: Settings, author: int) -> None:
    watch = LogWatch(settings.kafka_bootstrap)
    before = watch.ends()

    found = result_of(fanfold(settings, *DATABASE, "--rate", "20", "--json"))
    said = fanfold(settings, *DATABASE, "--rate", "20").stdout

    assert found | {"what": None} == {
        "executed": False,
        "what": None,
        "rate": 20,
        "events": 40,
        "deliveries": 80,
        "unreadable": 0,
        "is_whole": True,
        "about_s": 2.0,
    }
    assert "would send 40 events again" in said
    assert "up to 80 deliveries" in said
    assert "nothing was sent" in said
    assert (watch.ends(), Jobs(stores.zookeeper).all()) == (before, [])
    watch.close()


def test_it_runs_to_its_end_and_says_so_in_one_object(
    stores: Stores, settings: Settings, author: int, topic: str
) -> None:
    found = result_of(fanfold(settings, *DATABASE, "--topic", topic, "--execute", "--json"))

    assert (found["executed"], found["id"], found["state"]) == (True, 1, "done")
    assert found["counts"] == {"looked": 40, "sent": 40, "unreadable": 0}
    listed = result_of(fanfold(settings, "list", "--json"))
    assert listed["replays"] == [Jobs(stores.zookeeper).get(1).as_json()]
    assert result_of(fanfold(settings, "show", "1", "--json"))["runner"] is None
    assert "replay 1 is done" in fanfold(settings, "show", "1").stdout
    assert topic in fanfold(settings, "list").stdout.replace("\n", "")


def test_ctrl_c_pauses_it_and_resume_goes_on_to_the_end(
    stores: Stores, settings: Settings, author: int, topic: str
) -> None:
    jobs = Jobs(stores.zookeeper)

    def interrupt() -> None:
        wait_until(lambda: any(job.counts.sent for job in jobs.all()), "a replay that sends")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = fanfold(settings, *DATABASE, "--topic", topic, "--rate", "5", "--execute", "--json")
    thread.join()
    paused = jobs.get(1)

    assert (done.exit_code, paused.state) == (130, State.PAUSED)
    assert 0 < paused.counts.sent < 40
    assert "`fanfold replay resume 1` goes on" in done.stderr
    found = result_of(fanfold(settings, "resume", "1", "--json"))
    assert (found["state"], found["counts"]) == ("done", {"looked": 40, "sent": 40, "unreadable": 0})


def test_a_paused_one_is_cancelled_for_good(stores: Stores, settings: Settings, author: int, topic: str) -> None:
    def stop() -> None:
        wait_until(lambda: any(job.counts.sent for job in Jobs(stores.zookeeper).all()), "a replay that sends")
        Jobs(stores.zookeeper).change(1, State.PAUSED)  # as `pause` does, which in this process takes standard output

    thread = threading.Thread(target=stop)
    thread.start()
    done = fanfold(settings, *DATABASE, "--topic", topic, "--rate", "5", "--execute")
    thread.join()

    assert done.exit_code == 1
    assert "is paused" in done.stderr
    assert fanfold(settings, "pause", "1").exit_code == 0
    assert "replay 1 is cancelled" in fanfold(settings, "cancel", "1").stdout
    refused = fanfold(settings, "resume", "1")
    assert isinstance(refused.exception, Conflict)


def test_a_time_without_a_zone_is_utc_and_said_so(stores: Stores, settings: Settings, author: int) -> None:
    done = fanfold(settings, *DATABASE, "--since", "2026-01-02T03:04:05", "--json")

    assert result_of(done)["events"] == 40
    assert "--since 2026-01-02T03:04:05 has no time zone and is taken as 2026-01-02 03:04:05+00:00" in done.stderr


@pytest.mark.parametrize(
    ("words", "error", "sentence"),
    [
        (("--rate", "0"), InvalidInput, "--rate is 0, and must be from 1 to 1,000,000 events a second"),
        (("--live-wait", "0"), InvalidInput, "--live-wait is 0, and must be from 0.1 to 60 seconds"),
        (("--live-wait", "nan"), InvalidInput, "--live-wait is nan, and must be from 0.1 to 60 seconds"),
        (("--since", "2026-02-02", "--until", "2026-02-01"), InvalidInput, "before or where it starts"),
        (("--until", "FUTURE"), InvalidInput, "which is in the future"),
        (("--author", "4711"), NotFound, "user 4711 does not exist"),
        (("--followers-of", "4711"), NotFound, "user 4711 does not exist"),
        (("--offsets", "1:2"), InvalidInput, "must be PARTITION:FROM-TO"),
        (("--offsets", "1:2-3", "--offsets", "1:4-5"), InvalidInput, "name one partition twice"),
        (("--topic", "activity"), InvalidInput, "is Fanfold's own"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(
    stores: Stores, settings: Settings, words: tuple[str, ...], error: type[FanfoldError], sentence: str
) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()

    done = fanfold(settings, *(tomorrow if word == "FUTURE" else word for word in words), "--execute")

    assert isinstance(done.exception, error)
    assert sentence in str(done.exception)
    assert Jobs(stores.zookeeper).all() == []


def test_two_of_the_same_at_once_are_refused(stores: Stores, settings: Settings, author: int, topic: str) -> None:
    jobs = Jobs(stores.zookeeper)
    jobs.create(What(Source.DATABASE, topic=topic), Plan(), 1, 0)

    refused = fanfold(settings, "--topic", topic, "--execute")

    assert isinstance(refused.exception, Conflict)
    assert "replay 1 sends the same and is running" in str(refused.exception)
    assert [job.id for job in jobs.all()] == [1]
