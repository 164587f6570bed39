"""Commands of the consumers: reading timelines, and the audit."""

from typing import Annotated

import typer

from consumers.read_timeline import TimelineReader
from consumers.timeline_answers import timeline_answer
from infra.cli import JsonFlag, UserId, parse_id, print_json, settings_of
from infra.composition import stores
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
        print_json(timeline_answer(page, counts).model_dump(mode="json"))
        return
    for tweet in page.tweets:
        by = ", ".join(map(str, page.retweeted_by.get(tweet.id, ())))
        retweeted = f"  (retweeted by {by})" if by else ""
        typer.echo(f"{tweet.created_at:%Y-%m-%d %H:%M}  user {tweet.author_id:<12} {tweet.text}{retweeted}")
    if not page.tweets:
        typer.echo("(no tweets)")
    if page.next_max_id is not None:
        typer.echo(f"older: --max-id {page.next_max_id}")
