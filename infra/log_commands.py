"""`fanfold topics accept` and `fanfold topics recreate`: what to do when a log is not what was worked off."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from infra.accept_logs import From, Step, accept, find_all, plan, recreate
from infra.cli import JsonFlag, print_json, say, settings_of
from infra.database import make_engine
from infra.kafka import GROUP
from infra.kafka_logs import admin_client, kafka_errors, messages_from, topic_ids
from infra.log_losses import advice
from infra.settings import Settings
from infra.topics import LOGS_OF_WORKERS, TOPICS, Topic, create_topics
from infra.worked_logs import ASK_TIMEOUT_S, read_places, read_seen

Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this nothing is changed.")]


def parse_log(text: str) -> Topic:
    """A topic of the table."""
    for topic in TOPICS:
        if text == topic.name:
            return topic
    raise typer.BadParameter(f"{text!r} is no log; they are {', '.join(topic.name for topic in TOPICS)}")


def topics_accept(
    context: typer.Context,
    where: Annotated[
        From, typer.Option("--from", help="Where reading goes on: where it was if the log has that, or at one end.")
    ] = From.RECORDED,
    execute: Execute = False,
    as_json: JsonFlag = False,
) -> None:
    """Let workers and counters go on although something of a log is missing.

    \b
    They refuse to start when committed offsets are gone, a topic was made
    anew, or messages are past their retention unread. This shows every such
    partition and, with --execute, sets where reading goes on. What was lost
    for the timelines comes back by the commands that it names. Stop all
    workers first.
    """
    settings = settings_of(context)
    bootstrap = settings.need("kafka_bootstrap")
    with _engine(settings) as engine:
        findings = find_all(engine, bootstrap)
        steps = plan(findings, where)
        if execute and steps:
            accept(engine, bootstrap, steps)
    then = list(advice(findings))
    if as_json:
        print_json({"executed": execute, "partitions": list(map(_step_json, steps)), "then": then})
        return
    for step in steps:
        typer.echo(f"{step.finding.sentence()}: it {'goes' if execute else 'would go'} on at offset {step.next_offset}")
    if not steps:
        typer.echo("nothing is missing: workers and counters go on where they were")
        return
    for command in then:
        typer.echo(f"then: {command}")
    if not execute:
        say("nothing was changed: add --execute")


def topics_recreate(
    context: typer.Context,
    topic: Annotated[
        Topic, typer.Argument(parser=parse_log, metavar="TOPIC", help="activity, deliveries or reactions.")
    ],
    execute: Execute = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete a log with all that is in it, and make it anew with the right number of partitions.

    \b
    For a log that got another number of partitions: no order holds over
    that. Let the workers read it to its end first, then stop all roles.
    Without --execute it says how much is unread.
    """
    settings = settings_of(context)
    bootstrap = settings.need("kafka_bootstrap")
    of_workers = topic in LOGS_OF_WORKERS
    with _engine(settings) as engine:
        unread = count_unread(engine, bootstrap, topic) if of_workers else None
        if execute:
            recreate(engine, bootstrap, topic, partial(create_topics, bootstrap))
    if as_json:
        print_json({"executed": execute, "topic": topic.name, "unread": unread})
        return
    known = "nobody can tell how much of it" if unread is None else f"{unread:,} messages of it"
    lost = f" ({known} no worker has read)" if of_workers else ""
    typer.echo(f"{topic.name} {'was' if execute else 'would be'} made anew; all that was in it{lost} is gone")
    if of_workers and unread != 0:
        typer.echo("then: fanfold rebuild --active")
    if not execute:
        say("nothing was changed: add --execute")


def count_unread(engine: sa.Engine, bootstrap: str, topic: Topic) -> int | None:
    """What no worker has read, in the partitions that there are, which may be more or fewer than there should be. None
    when nobody can tell: the log that the workers read is gone, or was made anew already."""
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, ASK_TIMEOUT_S)
        found = admin.list_topics(timeout=ASK_TIMEOUT_S).topics.get(topic.name)
        if found is None:
            return None
        log_id = topic_ids(admin, [topic], ASK_TIMEOUT_S)[topic.name]
    if any(seen.log_id != log_id for place, seen in read_seen(engine).items() if place[0] == topic.name):
        return None
    topic = replace(topic, partitions=len(found.partitions))
    places = [(topic.name, partition) for partition in range(topic.partitions)]
    committed = read_places(bootstrap, GROUP, places)
    return messages_from(bootstrap, topic, [committed[place] or 0 for place in places])


def _step_json(step: Step) -> dict[str, Any]:
    one = step.finding
    return {
        "reader": one.reader,
        "topic": one.topic,
        "partition": one.partition,
        "loss": one.loss.value,
        "committed": one.committed,
        "begins": one.held.start,
        "ends": one.held.end,
        "next_offset": step.next_offset,
        "why": one.sentence(),
    }


@contextmanager
def _engine(settings: Settings) -> Iterator[sa.Engine]:
    engine = make_engine(settings.need("database_url"))
    try:
        yield engine
    finally:
        engine.dispose()
