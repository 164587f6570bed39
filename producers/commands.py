"""Commands of the producers: the relay, and what users do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from infra.cli import JsonFlag, TweetId, UserId, parse_id, print_json, say, settings_of
from infra.composition import stores
from infra.database import make_engine
from infra.errors import FanfoldError
from infra.health import Health
from infra.http_answers import tweet_answer, user_answer
from infra.role import begin_role
from producers.housekeeping import ROUND_S as HOUSE_ROUND_S
from producers.housekeeping import keep_house
from producers.outbox_watch import watch_outbox
from producers.publish import NewTweet, Publisher
from producers.relay import Relay
from producers.snowflake import unleased_snowflakes
from producers.status_keeper import ROUND_S as STATUS_ROUND_S
from producers.status_keeper import keep_statuses

user = typer.Typer(no_args_is_help=True, help="Users.")

Follower = Annotated[int, typer.Argument(parser=parse_id, metavar="FOLLOWER", help="The user who follows.")]
Author = Annotated[int, typer.Argument(parser=parse_id, metavar="AUTHOR", help="The user who is followed.")]
Blocker = Annotated[int, typer.Argument(parser=parse_id, metavar="BLOCKER", help="The user who blocks.")]
Blocked = Annotated[int, typer.Argument(parser=parse_id, metavar="BLOCKED", help="The user who is blocked.")]


def relay(context: typer.Context) -> None:
    """Run the relay: committed events from the outbox to Kafka; a second one waits."""
    settings = settings_of(context)
    url = settings.need("database_url")
    health = Health()
    stop = begin_role(settings, health)
    engine = make_engine(url)
    threading.Thread(target=watch_outbox, args=(engine, stop), daemon=True).start()
    house_beat = health.loop("the housekeeping", HOUSE_ROUND_S)
    threading.Thread(target=keep_house, args=(settings, engine, stop, house_beat), daemon=True).start()
    status_beat = health.loop("the status keeper", STATUS_ROUND_S)
    threading.Thread(target=keep_statuses, args=(settings, stop, status_beat), daemon=True).start()
    try:
        Relay(engine, url, settings.need("kafka_bootstrap")).run(stop, health)
    finally:
        engine.dispose()


def post(
    context: typer.Context,
    author: UserId,
    text: Annotated[str, typer.Argument(help="1 to 280 characters. Put -- before one that begins with a dash.")],
    reply_to: Annotated[int | None, typer.Option(parser=parse_id, help="The tweet that this one answers.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Post a tweet."""
    with _publisher(context) as publisher:
        tweet = publisher.post(NewTweet(author, text, reply_to))
    _tell(f"user {author} posted tweet {tweet.id}", tweet_answer(tweet).model_dump(mode="json"), as_json)


def delete(context: typer.Context, tweet: TweetId, as_json: JsonFlag = False) -> None:
    """Delete a tweet. When the command ends, no read shows it."""
    with _publisher(context) as publisher:
        publisher.delete(tweet)
    _tell(f"tweet {tweet} is deleted", {"id": str(tweet), "deleted": True}, as_json)


def like(context: typer.Context, user: UserId, tweet: TweetId, as_json: JsonFlag = False) -> None:
    """USER likes TWEET from now on."""
    with _publisher(context) as publisher:
        publisher.like(user, tweet)
    _tell(f"user {user} likes tweet {tweet}", {"user_id": str(user), "tweet_id": str(tweet), "liked": True}, as_json)


def unlike(context: typer.Context, user: UserId, tweet: TweetId, as_json: JsonFlag = False) -> None:
    """USER no longer likes TWEET."""
    with _publisher(context) as publisher:
        publisher.unlike(user, tweet)
    answer = {"user_id": str(user), "tweet_id": str(tweet), "liked": False}
    _tell(f"user {user} no longer likes tweet {tweet}", answer, as_json)


def follow(context: typer.Context, follower: Follower, author: Author, as_json: JsonFlag = False) -> None:
    """FOLLOWER follows AUTHOR from now on."""
    with _publisher(context) as publisher:
        publisher.follow(follower, author)
    answer = {"follower_id": str(follower), "author_id": str(author), "following": True}
    _tell(f"user {follower} follows user {author}", answer, as_json)


def unfollow(context: typer.Context, follower: Follower, author: Author, as_json: JsonFlag = False) -> None:
    """FOLLOWER no longer follows AUTHOR."""
    with _publisher(context) as publisher:
        publisher.unfollow(follower, author)
    answer = {"follower_id": str(follower), "author_id": str(author), "following": False}
    _tell(f"user {follower} no longer follows user {author}", answer, as_json)


def block(context: typer.Context, blocker: Blocker, blocked: Blocked, as_json: JsonFlag = False) -> None:
    """BLOCKER blocks BLOCKED: follows end both ways, and neither can follow the other."""
    with _publisher(context) as publisher:
        publisher.block(blocker, blocked)
    answer = {"blocker_id": str(blocker), "blocked_id": str(blocked), "blocking": True}
    _tell(f"user {blocker} blocks user {blocked}", answer, as_json)


def unblock(context: typer.Context, blocker: Blocker, blocked: Blocked, as_json: JsonFlag = False) -> None:
    """Take a block back. Nobody follows again by it."""
    with _publisher(context) as publisher:
        publisher.unblock(blocker, blocked)
    answer = {"blocker_id": str(blocker), "blocked_id": str(blocked), "blocking": False}
    _tell(f"user {blocker} no longer blocks user {blocked}", answer, as_json)


@user.command("create")
def user_create(
    context: typer.Context,
    handle: Annotated[str, typer.Argument(help="1 to 30 letters, digits or underscores.")],
    user_id: Annotated[int | None, typer.Option("--id", parser=parse_id, help="The id; made by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Create a user."""
    with _publisher(context) as publisher:
        created = publisher.create_user(handle, user_id)
    _tell(f"user {created.id} is {created.handle}", user_answer(created).model_dump(mode="json"), as_json)


@user.command("delete")
def user_delete(context: typer.Context, user_id: UserId, as_json: JsonFlag = False) -> None:
    """Delete a user with all tweets and follows. Stopped or killed on the way, it goes on when it is called again.

    Exit code 1 when something is left after an hour, or at once while another process erases this user.
    """

    def show(tweets: int, follows: int) -> None:
        say(f"removed {tweets:,} tweets and {follows:,} follows so far")

    with _publisher(context) as publisher:
        erased = publisher.delete_user(user_id, show)
    answer = {"id": str(user_id), "deleted": True, **asdict(erased)}
    removed = f"{erased.tweets:,} tweets and {erased.follows:,} follows"
    if erased.complete:
        _tell(f"user {user_id} is deleted, with {removed}", answer, as_json)
        return
    if as_json:
        print_json(answer)
    raise FanfoldError(
        f"nobody finds user {user_id} any more and {removed} are removed, but some of his tweets or follows are left; "
        "run it again, or leave them to the relay"
    )


@contextmanager
def _publisher(context: typer.Context) -> Iterator[Publisher]:
    with stores(settings_of(context)) as opened, Publisher(opened, unleased_snowflakes()) as publisher:
        yield publisher


def _tell(sentence: str, answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(sentence)
