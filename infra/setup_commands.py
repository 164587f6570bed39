"""Commands that set up or show: migrations, topics, process settings in force; live settings are next door."""

from dataclasses import fields

import typer
from sqlalchemy.engine import make_url

from infra.cli import JsonFlag, print_json, say, settings_of
from infra.database import upgrade
from infra.live_settings_commands import SET_HELP, config_get, config_history, config_rollback, config_set
from infra.log_commands import topics_accept, topics_recreate
from infra.settings import PREFIX, Settings
from infra.topics import create_topics

db = typer.Typer(no_args_is_help=True, help="The database's tables.")
topics = typer.Typer(no_args_is_help=True, help="The Kafka topics.")
config = typer.Typer(no_args_is_help=True, help="Process settings (show), and live settings (all others).")

config.command("get")(config_get)
config.command("set", help=SET_HELP, context_settings={"ignore_unknown_options": True})(config_set)
config.command("history")(config_history)
config.command("rollback")(config_rollback)

topics.command("accept")(topics_accept)
topics.command("recreate")(topics_recreate)


@db.command("upgrade")
def db_upgrade(context: typer.Context) -> None:
    """Create or upgrade the tables; safe to run again."""
    upgrade(settings_of(context).need("database_url"))
    say("the tables are up to date")


@topics.command("create")
def topics_create(context: typer.Context) -> None:
    """Create the topics that are missing; safe to run again."""
    created = create_topics(settings_of(context).need("kafka_bootstrap"))
    say(f"created {', '.join(sorted(created))}" if created else "all topics are there")


@config.command("show")
def config_show(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the process settings in force, secrets hidden."""
    shown = {PREFIX + field.name.upper(): _shown(settings_of(context), field.name) for field in fields(Settings)}
    if as_json:
        print_json(shown)
        return
    for key, value in shown.items():
        typer.echo(f"{key}={value if value is not None else ''}")


def _shown(settings: Settings, name: str) -> object:
    value = getattr(settings, name)
    if name == "database_url" and value:
        return make_url(value).render_as_string(hide_password=True)
    if name == "redis_nodes":
        return ",".join(
            f"{node}={make_url(url).render_as_string(hide_password=True)}" for node, url in dict(value).items()
        )
    return value if isinstance(value, int | float | str | None) else str(value)
