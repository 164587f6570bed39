"""What a stream is told, from any position: nothing lost, nothing twice, in whatever order the logs are read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest

from consumers import live_listener
from consumers.live_audience import Audience
from consumers.live_frames import EventQueue
from consumers.live_listener import Kind, Listener, Told
from consumers.live_match import Happening
from consumers.live_position import Place, Position, audience_of, parse_position
from infra.events import REPLAY_HEADER, Activity, ActivityType, DeliveryKind, encode_activity
from infra.log_reader import ACTIVITY_LOGS, DELIVERY_LOGS, Cut, Log, LogMessage
from infra.slots import slot_of
from infra.topics import DELIVERIES

USER, BOTH, PULL = 7, 8, 9
USERS_LOG = DELIVERY_LOGS[slot_of(USER) % DELIVERIES.partitions]
AUTHORS_LOG = ACTIVITY_LOGS[0]
POSTED, DELETED, MERGED = DeliveryKind.DELIVER, DeliveryKind.RETRACT, DeliveryKind.MERGE

Message = tuple[int, list[Happening]]  # the offset, and what happens to the user


@dataclass
class Logs:
    """Both logs as one user sees them, in the order of their offsets."""

    messages: dict[Log, list[Message]] = field(default_factory=lambda: {USERS_LOG: [], AUTHORS_LOG: []})
    ends: Cut = field(default_factory=lambda: dict.fromkeys((USERS_LOG, *ACTIVITY_LOGS), 0))

    def add(self, log: Log, happened: Sequence[tuple[DeliveryKind, int]], alone: bool = False) -> None:
        """A message, and sometimes a transaction marker behind it."""
        self.messages[log].append((self.ends[log], [Happening(kind, subject, alone) for kind, subject in happened]))
        self.ends[log] += 1 + self.ends[log] % 2

    def read(self, start: Mapping[Log, int], rng: Random) -> Sequence[tuple[Log, Message]]:
        """What comes from there on, each log in its order."""
        left = {log: [one for one in of_log if one[0] >= start[log]] for log, of_log in self.messages.items()}
        found = []
        while any(left.values()):
            log = rng.choice([log for log, of_log in left.items() if of_log])
            found.append((log, left[log].pop(0)))
        return found


def listener(position: Position | None = None) -> Listener:
    start = position or Position("0" * 8, audience_of(USER, {BOTH, PULL}), Place(0))
    return Listener(USER, {BOTH, PULL}, start, dict.fromkeys(ACTIVITY_LOGS, 0), EventQueue())


def run(logs: Logs, rng: Random, position: Position | None = None) -> tuple[list[Told], Listener, Cut]:
    """What a stream is told from this position on to the end of the logs."""
    made = listener(position)
    if needed := made.needed():
        for log, (offset, happened) in logs.read(made.firsts(), rng):
            if offset < needed.get(log, 0):
                made.remember(log, offset, happened)
    cut: Cut = made.starts()
    told: list[Told] = []
    for log, (offset, happened) in logs.read(cut, rng):
        told += made.hear(log, offset, happened, cut)
        cut[log] = offset + 1
    return told, made, cut


def random_logs(rng: Random) -> Logs:
    """Posts of followed authors and of celebrities in status `both` and `pull`, deletes, and messages sent again."""
    logs, tweets, sent = Logs(), [], list[tuple[Log, list[tuple[DeliveryKind, int]]]]()
    for number in range(1, 60):
        tweets.append(number)
        where = rng.choice(["deliveries", "both", "pull"])
        kind, subject = (DELETED, rng.choice(tweets)) if rng.random() < 0.2 else (POSTED, number)
        batch = [(kind, subject)] + [(POSTED, 1_000 * number + extra) for extra in range(rng.randrange(3))]
        if where != "deliveries":
            sent += [(AUTHORS_LOG, [one]) for one in batch]
        if where != "pull":
            sent.append((USERS_LOG, batch))
        if rng.random() < 0.3:
            sent += sent[-rng.randrange(1, 6) :]
    for log, happened in sent:
        logs.add(log, happened)
    return logs


def check_told(told: Sequence[Told], logs: Logs) -> None:
    """Each live tweet once, each delete once, and no tweet behind its delete."""
    happened = [one for of_log in logs.messages.values() for _, message in of_log for one in message]
    deleted = {one.subject for one in happened if one.kind is DELETED}
    live = {one.subject for one in happened} - deleted
    counts = Counter((one.kind, one.tweet_id) for one in told)
    assert {tweet for (kind, tweet), count in counts.items() if kind is Kind.UPDATE and tweet in live} == live
    assert {tweet for kind, tweet in counts if kind is Kind.DELETE} == deleted
    assert set(counts.values()) == {1}
    gone: set[int] = set()
    for one in told:
        assert one.kind is Kind.DELETE or one.tweet_id not in gone
        gone |= {one.tweet_id} if one.kind is Kind.DELETE else set()


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_that_is_resumed_anywhere_is_told_the_rest_once(seed: int) -> None:
    rng = Random(seed)
    logs = random_logs(rng)
    told, _, _ = run(logs, rng)
    check_told(told, logs)
    for at in range(len(told)):
        rest, _, _ = run(logs, rng, parse_position(told[at].position))
        check_told(told[: at + 1] + rest, logs)
        if rest:
            again = rng.randrange(len(rest))
            last, _, _ = run(logs, rng, parse_position(rest[again].position))
            check_told(told[: at + 1] + rest[: again + 1] + last, logs)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_remembered_is_bounded_and_the_same_after_a_resume(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny bounds a duplicate from further back is told again, and a resumed stream tells it as well."""
    for name, value in {
        "DELIVERIES_REMEMBERED_MAX": 3,
        "DELIVERIES_REACH": 6,
        "ACTIVITY_REMEMBERED_MAX": 2,
        "ACTIVITY_REACH": 6,
    }.items():
        monkeypatch.setattr(live_listener, name, value)
    rng = Random(seed)
    logs = Logs()
    for _ in range(200):
        logs.add(USERS_LOG, [(POSTED, rng.randrange(1, 9)) for _ in range(rng.randrange(1, 6))])
    told, _, _ = run(logs, rng)
    assert len(told) > 9
    for at in range(len(told)):
        rest, _, _ = run(logs, rng, parse_position(told[at].position))
        assert rest == told[at + 1 :]


def test_the_mark_of_an_idle_stream_moves_with_the_logs_and_needs_nothing_read_again() -> None:
    made = listener()
    cut = dict.fromkeys((USERS_LOG, *ACTIVITY_LOGS), 50_000)
    position = parse_position(made.position(cut))
    assert (position.deliveries, position.told) == (Place(50_000), 0)
    assert position.activity == (Place(50_000),) * len(ACTIVITY_LOGS)
    assert listener(position).needed() == {}


def test_a_change_of_follows_is_told_once_the_copies_have_it_also_after_a_resume() -> None:
    logs, rng = Logs(), Random(1)
    logs.add(USERS_LOG, [(POSTED, 1)])
    logs.add(USERS_LOG, [(MERGED, BOTH)], alone=True)
    logs.add(USERS_LOG, [(POSTED, 2)])
    changed = logs.messages[USERS_LOG][1][0]
    told, made, cut = run(logs, rng)
    assert [one.tweet_id for one in told] == [1, 2]
    assert made.reload(cut, {USERS_LOG: changed}) is None
    rest, resumed, cut = run(logs, rng, parse_position(told[-1].position))
    assert rest == []
    for one in (made, resumed):
        reload = one.reload(cut, {USERS_LOG: changed + 1})
        assert reload is not None
        assert (reload.kind, parse_position(reload.position).reload_after) == (Kind.RELOAD, None)
        assert one.reload(cut, {USERS_LOG: changed + 1}) is None


@pytest.mark.parametrize(
    ("kind", "alone", "reload_after"),
    [
        (DeliveryKind.MERGE, True, 0),
        (DeliveryKind.UNMERGE, True, 0),
        (DeliveryKind.MERGE, False, None),
        (DeliveryKind.UNMERGE, False, None),
        (DeliveryKind.ADD_CELEBRITY, True, 0),
        (DeliveryKind.ADD_CELEBRITY, False, 0),
        (DeliveryKind.REMOVE_CELEBRITY, False, 0),
    ],
)
def test_what_changes_a_page_or_the_log_of_an_author_is_a_reload(
    kind: DeliveryKind, alone: bool, reload_after: int | None
) -> None:
    made, cut = listener(), dict.fromkeys((USERS_LOG, *ACTIVITY_LOGS), 0)
    made.hear(USERS_LOG, 0, [Happening(kind, 10, alone)], cut)
    assert made.reload_after == reload_after


def test_the_records_of_celebrities_keep_the_set() -> None:
    made, cut = listener(), dict.fromkeys((USERS_LOG, *ACTIVITY_LOGS), 0)
    made.hear(USERS_LOG, 0, [Happening(DeliveryKind.ADD_CELEBRITY, 10, False)], cut)
    assert made.celebrities == {BOTH, PULL, 10}
    made.hear(USERS_LOG, 1, [Happening(DeliveryKind.REMOVE_CELEBRITY, 10, True)], cut)
    assert made.celebrities == {BOTH, PULL}


def test_celebrities_of_whom_no_record_told_are_a_reload() -> None:
    made, cut = listener(), dict.fromkeys((USERS_LOG, *ACTIVITY_LOGS), 0)
    assert made.follow_only({BOTH, PULL}, cut) is None
    told = made.follow_only({BOTH}, cut)
    assert told is not None
    assert (told.kind, parse_position(told.position).audience) == (Kind.RELOAD, audience_of(USER, {BOTH}))


def test_what_another_reader_told_is_not_told_again_by_one_that_is_behind() -> None:
    made, cut = listener(), dict.fromkeys((USERS_LOG, *ACTIVITY_LOGS), 0)
    posted = [Happening(POSTED, 1, False)]
    assert len(made.hear(USERS_LOG, 4, posted, cut)) == 1
    made.go_on_from(cut | {USERS_LOG: 5})
    assert made.hear(USERS_LOG, 4, [Happening(POSTED, 2, False)], cut) == []
    assert parse_position(made.position(cut)).deliveries == Place(5, 1)


@pytest.mark.parametrize("replayed", [False, True])
def test_an_event_of_a_celebrity_that_was_sent_again_is_told_to_nobody(replayed: bool) -> None:
    audience = Audience()
    audience.add(listener())
    event = encode_activity(Activity(ActivityType.POSTED, PULL, 17, 5)).encode()
    message = LogMessage(AUTHORS_LOG, 3, 4, b"%d" % PULL, event, 5, [(REPLAY_HEADER, b"1")] if replayed else [])

    told = [one.tweet_id for _, one in audience.told(message, {})]

    assert told == ([] if replayed else [17])
