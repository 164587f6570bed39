"""Deleting a tweet: the row keeps its place without its text, and the event goes into its author's log."""

import sqlalchemy as sa

from infra import outbox
from infra.database import lock_authors
from infra.errors import Forbidden, NotFound
from infra.events import Activity, ActivityType

_AUTHOR = sa.text("SELECT author_id FROM tweets WHERE id = :id")
_DELETE = sa.text("UPDATE tweets SET deleted_at = now(), text = NULL WHERE id = :id AND deleted_at IS NULL")


def delete_tweet(connection: sa.Connection, tweet_id: int, acting_id: int | None, now_ms: int) -> bool:
    """False when it was deleted before. Raises `NotFound`, and `Forbidden` when somebody else acts."""
    author_id = connection.execute(_AUTHOR, {"id": tweet_id}).scalar_one_or_none()
    if author_id is None:
        raise NotFound(f"tweet {tweet_id} does not exist")
    if acting_id is not None and acting_id != author_id:
        raise Forbidden(f"tweet {tweet_id} is of user {author_id}; only its author can delete it")
    lock_authors(connection, [author_id])
    if not connection.execute(_DELETE, {"id": tweet_id}).rowcount:
        return False
    outbox.append(connection, [Activity(ActivityType.DELETED, author_id, tweet_id, now_ms)])
    return True
