"""Commands of the producers: the relay, and what users do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from infra.cli import JsonFlag, print_json, say, settings_of
from infra.composition import stores
from infra.database import make_engine
from infra.role import announce_when, begin_role
from producers.publish import NewTweet, Publisher
from producers.relay import Relay

user = typer.Typer(no_args_is_help=True, help="Users.")

UserId = Annotated[int, typer.Argument(help="A user's id.")]


def relay(context: typer.Context) -> None:
    """Run the relay: committed events from the outbox to Kafka; a second one waits."""
    settings = settings_of(context)
    url = settings.need("database_url")
    stop, active = begin_role(settings), threading.Event()
    announce_when(active, settings)
    engine = make_engine(url)
    try:
        Relay(engine, url, settings.need("kafka_bootstrap")).run(stop, active)
    finally:
        engine.dispose()


def post(
    context: typer.Context,
    user: UserId,
    text: Annotated[str, typer.Argument(help="1 to 280 characters.")],
    reply_to: Annotated[int | None, typer.Option(help="The tweet that this one answers.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Post a tweet."""
    with _publisher(context) as publisher:
        tweet = publisher.post(NewTweet(user, text, reply_to))
    if as_json:
        print_json({"id": str(tweet.id), "author_id": str(user), "text": tweet.text})
    else:
        say(f"user {user} posted tweet {tweet.id}")


def delete(context: typer.Context, tweet: Annotated[int, typer.Argument(help="A tweet's id.")]) -> None:
    """Delete a tweet. When the command ends, no read shows it."""
    with _publisher(context) as publisher:
        publisher.delete(tweet)
    say(f"tweet {tweet} is deleted")


def follow(context: typer.Context, follower: UserId, author: UserId) -> None:
    """FOLLOWER follows AUTHOR from now on."""
    with _publisher(context) as publisher:
        publisher.follow(follower, author)
    say(f"user {follower} follows user {author}")


def unfollow(context: typer.Context, follower: UserId, author: UserId) -> None:
    """FOLLOWER no longer follows AUTHOR."""
    with _publisher(context) as publisher:
        publisher.unfollow(follower, author)
    say(f"user {follower} no longer follows user {author}")


@user.command("create")
def user_create(
    context: typer.Context,
    handle: Annotated[str, typer.Argument(help="1 to 30 letters, digits or underscores.")],
    user_id: Annotated[int | None, typer.Option("--id", help="The id; made by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Create a user."""
    with _publisher(context) as publisher:
        user = publisher.create_user(handle, user_id)
    if as_json:
        print_json({"id": str(user.id), "handle": user.handle})
    else:
        say(f"user {user.id} is {user.handle}")


@contextmanager
def _publisher(context: typer.Context) -> Iterator[Publisher]:
    with stores(settings_of(context)) as opened:
        yield Publisher(opened.engine, opened.bodies)
