"""Commands of the consumers: reading timelines, and the audit."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from consumers.read_timeline import Page, TimelineReader
from infra.cli import JsonFlag, UserId, parse_id, print_json, settings_of
from infra.composition import stores
from infra.counts import TweetCounts
from infra.http_answers import id_text, tweet_answer
from infra.paging import Cursor


def timeline(
    context: typer.Context,
    user: UserId,
    own: Annotated[bool, typer.Option("--own", help="The user's own tweets instead of the home timeline.")] = False,
    limit: Annotated[int, typer.Option(help="Tweets, 1 to 40.")] = 20,
    max_id: Annotated[int | None, typer.Option(parser=parse_id, help="Only tweets older than this one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a page of a timeline, newest first."""
    cursor = Cursor(limit, max_id)
    with stores(settings_of(context)) as opened:
        reader = TimelineReader(opened)
        page = reader.user(user, cursor) if own else reader.home(user, cursor)
        counts = opened.counts.read([tweet.id for tweet in page.tweets]) if as_json else {}
    if as_json:
        print_json(as_object(page, counts))
        return
    for tweet in page.tweets:
        typer.echo(f"{tweet.created_at:%Y-%m-%d %H:%M}  user {tweet.author_id:<12} {tweet.text}")
    if not page.tweets:
        typer.echo("(no tweets)")
    if page.next_max_id is not None:
        typer.echo(f"older: --max-id {page.next_max_id}")


def as_object(page: Page, counts: Mapping[int, TweetCounts]) -> dict[str, Any]:
    """A page as JSON shows it, the same as over HTTP."""
    return {
        "tweets": [tweet_answer(tweet, counts[tweet.id]).model_dump(mode="json") for tweet in page.tweets],
        "next_max_id": id_text(page.next_max_id),
        "state": page.state.value,
    }
