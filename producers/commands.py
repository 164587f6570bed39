"""Commands of the producers: the relay, and what users do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from infra.cli import JsonFlag, TweetId, UserId, parse_id, print_json, say, settings_of
from infra.composition import stores
from infra.database import make_engine
from infra.health import Health
from infra.http_answers import tweet_answer, user_answer
from infra.role import begin_role
from producers.outbox_watch import watch_outbox
from producers.publish import NewTweet, Publisher
from producers.relay import Relay
from producers.snowflake import unleased_snowflakes

user = typer.Typer(no_args_is_help=True, help="Users.")

Follower = Annotated[int, typer.Argument(parser=parse_id, metavar="FOLLOWER", help="The user who follows.")]
Author = Annotated[int, typer.Argument(parser=parse_id, metavar="AUTHOR", help="The user who is followed.")]


def relay(context: typer.Context) -> None:
    """Run the relay: committed events from the outbox to Kafka; a second one waits."""
    settings = settings_of(context)
    url = settings.need("database_url")
    health = Health()
    stop = begin_role(settings, health)
    engine = make_engine(url)
    threading.Thread(target=watch_outbox, args=(engine, stop), daemon=True).start()
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


@contextmanager
def _publisher(context: typer.Context) -> Iterator[Publisher]:
    with stores(settings_of(context)) as opened, Publisher(opened, unleased_snowflakes()) as publisher:
        yield publisher


def _tell(sentence: str, answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(sentence)
