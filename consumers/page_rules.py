"""The rules of a page: which live entries of a timeline are shown, and who is named with them. Pure.

A rule depends on the entry's older neighbours and not on where a page begins or ends, so what arrives later changes
nothing below it, and pages of any size show the same. Next: pages.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

from infra.paging import LIMIT_MAX
from infra.tweet_bodies import Body

RETWEET_SPAN_ENTRIES = LIMIT_MAX  # no page shows two retweets of one tweet


class Live(NamedTuple):
    """An entry whose tweet is live. `parent_live` is false for a reply to what nobody can read any more."""

    body: Body
    parent_live: bool = True


class Shown(NamedTuple):
    """A tweet of a page. `retweeted_by` are the authors of a retweet and of those hidden for it, newest first."""

    body: Body
    retweeted_by: tuple[int, ...] = ()


def shown(entries: Sequence[Live], first: int, last: int, span: int) -> list[Shown]:
    """What a page shows of `entries[first:last]`; entries are newest first, and the others are the context: `span`
    on both sides, fewer where the timeline ends.

    A retweet is shown if none of the `span` next older entries is a retweet of the same tweet. A reply is shown if its
    parent is live.
    """
    found = []
    for at in range(first, last):
        body, parent_live = entries[at]
        if not parent_live:
            continue
        if body.retweet_of is None:
            found.append(Shown(body))
        elif not _retweeters(entries[at + 1 : at + 1 + span], body.retweet_of):
            newer = entries[max(at - span, 0) : at + 1]
            found.append(Shown(body, tuple(dict.fromkeys(_retweeters(newer, body.retweet_of)))))
    return found


def _retweeters(entries: Sequence[Live], original: int) -> list[int]:
    return [entry.body.author_id for entry in entries if entry.body.retweet_of == original]
