"""What a replay would do: how many events and deliveries, and how long it takes at its rate. Nothing is sent.

The first part is read as the replay itself reads it; what is longer than that is taken to go on in the same way.
"""

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from infra.database import reading
from infra.events import ActivityType, decode_activity
from infra.replay_jobs import Job
from infra.replay_sources import pages

LOOKED_MAX = 200_000  # rows and messages: some seconds
AUTHORS_AT_ONCE = 10_000
PAIRS = (ActivityType.FOLLOWED, ActivityType.UNFOLLOWED)


@dataclass(frozen=True, slots=True)
class Estimate:
    """`deliveries` by how many follow each author now; `is_whole`: all of it was looked at."""

    events: int
    deliveries: int
    unreadable: int
    is_whole: bool
    about_s: float

    def as_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return {
            "events": self.events,
            "deliveries": self.deliveries,
            "unreadable": self.unreadable,
            "is_whole": self.is_whole,
            "about_s": round(self.about_s, 1),
        }


def estimate(engine: sa.Engine, bootstrap: str, job: Job) -> Estimate:
    """Looks at what a job would send. Raises as `pages`."""
    looked = unreadable = pairs = 0
    of_author: Counter[int] = Counter()
    for page in pages(engine, bootstrap, job):
        looked, unreadable = looked + page.counts.looked, unreadable + page.counts.unreadable
        for item in page.items:
            event = decode_activity(item.message.value)
            if event.type in PAIRS:
                pairs += 1
            else:
                of_author[event.author_id] += 1
        if looked >= LOOKED_MAX:
            break
    is_whole = looked < LOOKED_MAX
    times = 1.0 if is_whole else max(job.total / looked, 1.0)
    events, deliveries = of_author.total() + pairs, _deliveries(engine, of_author) + pairs
    if job.what.topic:
        deliveries = 0
    sent = round(events * times)
    return Estimate(sent, round(deliveries * times), round(unreadable * times), is_whole, sent / job.rate)


def _deliveries(engine: sa.Engine, of_author: Counter[int]) -> int:
    authors, found = list(of_author), 0
    with reading(engine) as connection:
        for start in range(0, len(authors), AUTHORS_AT_ONCE):
            rows = connection.execute(_FOLLOWERS, {"authors": authors[start : start + AUTHORS_AT_ONCE]})
            found += sum(of_author[author] * followers for author, followers in rows)
    return found


_FOLLOWERS = sa.text(
    """
    SELECT author_id, followers FROM follower_counts JOIN users ON users.id = author_id
    WHERE author_id = ANY (CAST(:authors AS bigint[])) AND status <> 'pull'
    """
)
