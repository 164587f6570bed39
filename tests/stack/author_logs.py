"""What must hold between what was committed, what is in Kafka and what callers saw: a sentence for each fault.

What was committed is noted by a trigger of the test's own at the commit, while the author's lock is still held.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from infra.events import Activity, ActivityType, decode_activity
from tests.activity_log import Relayed
from tests.stack.random_callers import Call, Event

# One transaction in ten lingers between its outbox ids and its commit, so that many commit late.
NOTE_COMMITS = """
CREATE TABLE committed (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id bigint NOT NULL, payload text);

CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO committed (id, payload) VALUES (NEW.id, NEW.payload); RETURN NULL; END $$;

CREATE CONSTRAINT TRIGGER note_commit AFTER INSERT ON outbox DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION note_commit();

CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF random() < 0.1 THEN PERFORM pg_sleep(random() * 0.02); END IF; RETURN NULL; END $$;

CREATE TRIGGER linger AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION linger();
"""


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed event; `event_id` is the id of its outbox row."""

    event_id: int
    event: Activity


def note_commits(engine: sa.Engine) -> None:
    """From now on this database notes what is committed."""
    with engine.begin() as connection:
        connection.exec_driver_sql(NOTE_COMMITS)


def read_committed(engine: sa.Engine) -> list[Committed]:
    """Every event since, of each author in commit order."""
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, payload FROM committed ORDER BY place")).all()
    return [Committed(row.id, decode_activity(row.payload.encode())) for row in rows]


def faults(relayed: Sequence[Relayed], committed: Sequence[Committed], calls: Iterable[Call]) -> list[str]:
    """What is wrong with the order of commits, and with the log of each author."""
    truth = by_author((one.event.author_id, one.event_id) for one in committed)
    log = by_author((one.event.author_id, one.event_id) for one in relayed)
    found = [
        f"author {author}'s outbox ids are not in commit order"
        for author, ids in truth.items()
        if list(ids) != sorted(ids)
    ]
    for author in truth.keys() | log.keys():
        found += [f"author {author}: {fault}" for fault in log_faults(log[author], truth[author])]
    return found + changed(relayed, committed) + faults_of_time(committed, calls)


def by_author(ids: Iterable[tuple[int, int]]) -> defaultdict[int, list[int]]:
    lists: defaultdict[int, list[int]] = defaultdict(list)
    for author, event_id in ids:
        lists[author].append(event_id)
    return lists


def log_faults(log: Sequence[int], truth: Sequence[int]) -> list[str]:
    """What is wrong with one author's log. It may go back, to an event that was sent before, and goes on from there; it
    never skips one, and ends with the last. So first and last occurrences both are in commit order."""
    place_of = {event_id: place for place, event_id in enumerate(truth)}
    found, at = [], -1
    for event_id in log:
        place = place_of.get(event_id)
        if place is None:
            found.append(f"event {event_id} is in the log and was never committed")
            continue
        if place > at + 1:
            found.append(f"event {event_id} came where {truth[at + 1]} was due")
        at = place
    if at != len(truth) - 1:
        found.append(f"the log ends with event {log[-1] if log else None}, and the last one is {truth[-1]}")
    return found


def changed(relayed: Iterable[Relayed], committed: Iterable[Committed]) -> list[str]:
    """Messages that do not say what was committed, or are in somebody else's log."""
    events = {one.event_id: one.event for one in committed}
    return [
        f"event {one.event_id} was {events.get(one.event_id)}, and the log has {one.event} with key {one.key!r}"
        for one in relayed
        if events.get(one.event_id) != one.event or one.key != str(one.event.author_id).encode()
    ]


def faults_of_time(committed: Iterable[Committed], calls: Iterable[Call]) -> list[str]:
    """A call that had ended before another began must be before it, if both are of one author."""
    seen: defaultdict[Event, deque[Call]] = defaultdict(deque)
    for call in sorted(calls, key=lambda call: call.began_ns):
        seen[call.event].append(call)
    found, latest_began_ns = [], defaultdict[int, int](int)
    for one in committed:
        made = seen[one.event.type, one.event.author_id, one.event.other_id]
        if not made:
            continue
        call = made.popleft()
        if call.ended_ns < latest_began_ns[one.event.author_id]:
            found.append(f"event {one.event_id} was committed after one whose call began when its own had ended")
        latest_began_ns[one.event.author_id] = max(latest_began_ns[one.event.author_id], call.began_ns)
    return found + [f"{event} was told to its caller and not committed" for event, left in seen.items() if left]


def last_words(relayed: Iterable[Relayed], *types: ActivityType) -> Mapping[tuple[int, int], ActivityType]:
    """For each (author, follower or tweet) what the log said of these types at last."""
    return {(one.event.author_id, one.event.other_id): one.event.type for one in relayed if one.event.type in types}
