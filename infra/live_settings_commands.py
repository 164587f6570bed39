"""Commands that show and change live settings: get, set, history, rollback of `fanfold config`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from infra.cli import JsonFlag, print_json, say
from infra.errors import InvalidInput
from infra.live_settings import (
    SETTINGS,
    Changed,
    LiveSettings,
    Setting,
    change_live_settings,
    read_live_settings,
    roll_back_live_settings,
    setting_named,
)
from infra.sessions_of_commands import zookeeper_of
from infra.settings_history import Change, Version, origin, read_history

SET_HELP = "Change live settings, all or none. Every process goes by them within 5 seconds.\n\n" + "\n\n".join(
    f"{one.name}: {one.low:,} to {one.high:,} {one.unit}; {one.meaning}." for one in SETTINGS.values()
)

OneName = Annotated[str | None, typer.Argument(metavar="NAME", help="Only this setting.")]
Words = Annotated[list[str], typer.Argument(metavar="NAME=VALUE", help="As threshold=5000; or NAME VALUE.")]
OldVersion = Annotated[
    int | None, typer.Argument(min=0, metavar="VERSION", help="See `config history`; by default the one before.")
]


def config_get(context: typer.Context, name: OneName = None, as_json: JsonFlag = False) -> None:
    """Show live settings: value, default, range, unit and meaning."""
    chosen = [setting_named(name)] if name is not None else list(SETTINGS.values())
    with zookeeper_of(context) as zookeeper:
        live = read_live_settings(zookeeper)
    if as_json:
        print_json({"version": live.version, "settings": {one.name: _as_json(one, live) for one in chosen}})
        return
    for line in _lines(chosen, live):
        typer.echo(line)
    say(f"version {live.version}" if live.version else "nothing is stored yet: these are the defaults")


def config_set(context: typer.Context, words: Words, as_json: JsonFlag = False) -> None:
    changes = parse_changes(words)
    with zookeeper_of(context) as zookeeper:
        _tell(change_live_settings(zookeeper, changes, origin()), as_json)


def config_history(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the versions of the live settings that are kept: the last hundred, the newest first."""
    with zookeeper_of(context) as zookeeper:
        history = read_history(zookeeper)
    if as_json:
        print_json({"versions": [asdict(one) for one in history]})
        return
    for one in history:
        typer.echo(f"{one.version}\t{one.at[:19]}Z\t{one.by}\t{_words(one)}")
    if not history:
        say("nothing is stored yet")


def config_rollback(context: typer.Context, version: OldVersion = None, as_json: JsonFlag = False) -> None:
    """Put an older version of the live settings in force again, as a new version."""
    with zookeeper_of(context) as zookeeper:
        _tell(roll_back_live_settings(zookeeper, version, origin()), as_json)


def parse_changes(words: Sequence[str]) -> dict[str, int]:
    """The values by their names. Raises `InvalidInput`."""
    if len(words) == 2 and not any("=" in word for word in words):
        words = ["=".join(words)]
    changes: dict[str, int] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InvalidInput(f"{word!r} is no NAME=VALUE: write `fanfold config set threshold=5000`, for example")
        if name in changes:
            raise InvalidInput(f"live setting {name} stands there twice")
        changes[name] = setting_named(name).parse(text)
    return changes


def _tell(changed: Changed, as_json: bool) -> None:
    version = changed.settings.version
    if as_json:
        print_json({"version": version, "changes": [asdict(one) for one in changed.changes]})
        return
    for one in changed.changes:
        say(_change_words(one))
    say(f"version {version}" if changed.changes else f"nothing to change: version {version} stays in force")


def _words(version: Version) -> str:
    changes = ", ".join(map(_change_words, version.changes)) or "first version"
    return changes if version.rollback_to is None else f"{changes} (rollback to {version.rollback_to})"


def _change_words(change: Change) -> str:
    return f"{change.name} {_shown(change.old)} → {change.new:,}"


def _shown(value: object) -> str:
    """What was stored by hand may be no number."""
    return f"{value:,}" if isinstance(value, int) else repr(value)


def _as_json(setting: Setting, live: LiveSettings) -> dict[str, object]:
    shown = {key: value for key, value in asdict(setting).items() if key != "name"}
    return {"value": getattr(live, setting.name), **shown}


def _lines(settings: Sequence[Setting], live: LiveSettings) -> list[str]:
    rows = [
        (one.name, f"{getattr(live, one.name):,}", f"{one.default:,}", f"{one.low:,} to {one.high:,}", one.unit)
        for one in settings
    ]
    rows.insert(0, ("name", "value", "default", "range", "unit"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    meanings = ["meaning", *(one.meaning for one in settings)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), meaning])
        for row, meaning in zip(rows, meanings, strict=True)
    ]
