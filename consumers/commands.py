"""Commands of the consumers: reading timelines, and the audit."""

from typing import Annotated

import typer

from consumers.read_timeline import Cursor, Page, TimelineReader
from infra.cli import JsonFlag, print_json, settings_of
from infra.composition import stores


def timeline(
    context: typer.Context,
    user: Annotated[int, typer.Argument(help="A user's id.")],
    own: Annotated[bool, typer.Option("--own", help="The user's own tweets instead of the home timeline.")] = False,
    limit: Annotated[int, typer.Option(help="Tweets, 1 to 40.")] = 20,
    max_id: Annotated[int | None, typer.Option(help="Only tweets older than this one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a page of a timeline, newest first."""
    cursor = Cursor(limit, max_id)
    with stores(settings_of(context)) as opened:
        reader = TimelineReader(opened)
        page = reader.user(user, cursor) if own else reader.home(user, cursor)
    if as_json:
        print_json(as_object(page))
        return
    for tweet in page.tweets:
        typer.echo(f"{tweet.created_at:%Y-%m-%d %H:%M}  user {tweet.author_id:<12} {tweet.text}")
    if not page.tweets:
        typer.echo("(no tweets)")
    if page.next_max_id is not None:
        typer.echo(f"older: --max-id {page.next_max_id}")


def as_object(page: Page) -> dict[str, object]:
    """A page as JSON shows it."""
    return {
        "tweets": [
            {
                "id": str(tweet.id),
                "author_id": str(tweet.author_id),
                "text": tweet.text,
                "created_at": tweet.created_at.isoformat(),
            }
            for tweet in page.tweets
        ],
        "next_max_id": None if page.next_max_id is None else str(page.next_max_id),
        "state": page.state.value,
    }
