"""`fanfold rebuild`: wrong timelines become right in every copy, bad ids are named, and --active activates nobody."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from infra import redis_keys
from infra.cli import build_app
from infra.composition import Stores
from infra.rebuild import rebuild
from infra.redis_node import RedisNode
from infra.settings import Settings
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind
from producers.publish import NewTweet, Publisher

MakeUsers = Callable[[int], list[int]]


class Wrong:
    """A reader whose timelines hold a ghost and lack a tweet, in every copy."""

    def __init__(self, stores: Stores, publisher: Publisher, make_users: MakeUsers) -> None:
        self.stores = stores
        self.reader, self.author, self.celebrity = make_users(3)
        publisher.follow_many([(self.reader, self.author), (self.reader, self.celebrity)])
        self.ghost = publisher.post(NewTweet(self.celebrity, "ghost")).id  # older than the others
        self.tweets = [publisher.post(NewTweet(self.author, text)).id for text in ("one", "two")]
        with stores.engine.begin() as connection:
            connection.execute(sa.text("UPDATE users SET status = 'pull' WHERE id = :id"), {"id": self.celebrity})
        for kind in Kind:
            rebuild(stores.engine, stores.timelines, kind, [self.reader, self.author])
        stores.timelines.fill_celebrities([self.reader], lambda users: {user: [self.ghost] for user in users})
        for cluster in CLUSTERS:
            node = self._node(cluster)
            node.command("RPOP", redis_keys.home_timeline(self.reader))
            node.command("LINSERT", redis_keys.home_timeline(self.reader), "AFTER", "0", str(self.ghost))

    def home(self) -> list[int]:
        [found] = {self._home(cluster) for cluster in CLUSTERS}
        return list(found)

    def celebrities(self) -> set[int]:
        [found] = {
            frozenset(map(int, self._node(cluster).command("SMEMBERS", redis_keys.celebrities(self.reader))))
            for cluster in CLUSTERS
        }
        return set(found) - {0}

    def check_is_right(self) -> None:
        assert (self.home(), self.celebrities()) == (self.tweets, {self.celebrity})

    def _home(self, cluster: str) -> tuple[int, ...]:
        return tuple(map(int, self.stores.timelines.dump(cluster, Kind.HOME, [self.reader])[self.reader][1:]))

    def _node(self, cluster: str) -> RedisNode:
        clusters = self.stores.clusters
        return clusters.node(clusters.shard_map.node_of(cluster, slot_of(self.reader)))


@pytest.fixture
def wrong(stores: Stores, publisher: Publisher, make_users: MakeUsers) -> Wrong:
    made = Wrong(stores, publisher, make_users)
    assert made.home() == [made.ghost, made.tweets[0]]
    assert made.celebrities() == {made.ghost}
    return made


def fanfold(settings: Settings, folder: Path, *words: str) -> tuple[int, str, str]:
    environ = {
        "FANFOLD_DATABASE_URL": settings.database_url,
        "FANFOLD_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
    }
    done = CliRunner().invoke(build_app("rebuild"), ["--data-dir", str(folder), "rebuild", *words], env=environ)
    return done.exit_code, done.stdout, f"{done.stderr}{done.exception or ''}"


def test_a_user_is_rebuilt_in_every_copy(wrong: Wrong, settings: Settings, tmp_path: Path) -> None:
    code, shown, _ = fanfold(settings, tmp_path, "--user", str(wrong.reader))
    assert (code, shown) == (0, "rebuilt the timelines of 1 user\n")
    wrong.check_is_right()


def test_a_file_names_users_and_what_is_none_is_told_with_its_line(
    wrong: Wrong, settings: Settings, tmp_path: Path
) -> None:
    lines = ["# readers", "", str(wrong.reader), "x" * 5_000, str(wrong.author), "0", "6148914691236517205"]
    file = tmp_path / "users.txt"
    file.write_text("\n".join(lines))

    code, shown, said = fanfold(settings, tmp_path, "--users-file", str(file), "--json")
    result = json.loads(shown)

    assert (code, result["rebuilt"], result["bad"], result["failed"]) == (1, 2, 3, 0)
    assert [one["line"] for one in result["bad_ids"]] == [4, 6, 7]
    assert result["bad_ids"][1]["why"].startswith("'0' is not a user id, which is a whole number from 1 to ")
    assert result["bad_ids"][2]["why"] == "user 6148914691236517205 does not exist"
    assert "3 ids were left out" in said
    wrong.check_is_right()
    _, _, said = fanfold(settings, tmp_path, "--users-file", str(file))
    assert "line 7: user 6148914691236517205 does not exist\n" in said


def test_all_active_users_are_rebuilt_and_are_active_for_as_long_as_before(
    wrong: Wrong, settings: Settings, tmp_path: Path
) -> None:
    def active_until() -> object:
        with wrong.stores.engine.connect() as connection:
            asked = sa.text("SELECT active_until FROM users WHERE id = :id")
            return connection.execute(asked, {"id": wrong.reader}).scalar_one()

    with wrong.stores.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE users SET active_until = now() + interval '9 days' WHERE active_until > now()")
        )
    before = active_until()

    code, shown, _ = fanfold(settings, tmp_path, "--active", "--json")

    assert (code, json.loads(shown)["rebuilt"]) == (0, 2)
    wrong.check_is_right()
    assert active_until() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "say whose timelines: --user ID, --users-file FILE, or --active"),
        (("--active", "--user", "1"), "say whose timelines"),
        (("--users-file", "/no/such/file"), "file /no/such/file does not exist"),
        (("--users-file", "/"), "file / cannot be read: Is a directory"),
    ],
)
def test_a_mistake_is_one_sentence(settings: Settings, tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    code, shown, said = fanfold(settings, tmp_path, *words)
    assert shown == ""
    assert sentence in said
    assert code != 0
