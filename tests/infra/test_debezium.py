"""The connector in docs/debezium.md names what is there. What it does was tried by hand, as the page says."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from infra import outbox
from infra.cloud_events import SOURCE_ROOT, TRACE_HEADERS, constant_headers, headers_of
from infra.live_settings_commands import parse_changes
from infra.tables import idempotency_keys as keys
from infra.tables import outbox as table
from infra.topics import ACTIVITY
from producers.idempotency import KEPT_HOURS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "debezium.md").read_text(encoding="utf-8")
SQL = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)[0]
CONFIG: dict[str, str] = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])["config"]
ROUTER = "transforms.outbox."
PLACEMENTS = [one.split(":") for one in CONFIG[ROUTER + "table.fields.additional.placement"].split(",")]


def test_the_router_reads_columns_that_exist() -> None:
    fields = [value for key, value in CONFIG.items() if key.startswith((ROUTER + "table.field.", ROUTER + "route.by."))]
    named = [*fields, *(column for column, _, _ in PLACEMENTS)]
    assert set(named) == set(table.columns.keys())
    assert CONFIG["table.include.list"] == f"public.{table.name}"


def test_the_router_sends_to_the_topic_that_the_row_names() -> None:
    assert CONFIG[ROUTER + "route.by.field"] == "aggregatetype"
    assert CONFIG[ROUTER + "route.topic.replacement"] == "${routedByValue}"
    assert f"| `aggregatetype` | the topic: `{ACTIVITY.name}` |" in PAGE


def test_the_headers_are_those_of_the_relay() -> None:
    """Constant ones with their values."""
    constant = {
        name: CONFIG[f"transforms.{step}.{key}"]
        for step, name_key, key in (
            ("specversion", "static.field", "static.value"),
            ("source", "header", "value.literal"),
            ("contenttype", "header", "value.literal"),
        )
        for name in [CONFIG[f"transforms.{step}.{name_key}"]]
    }
    assert constant == {name: value.decode() for name, value in constant_headers(f"{SOURCE_ROOT}{outbox.SHARD}")}

    written = [name for name, _ in headers_of("1", "type", b"1", datetime.now(UTC), "a trace")]
    assert sorted(alias for _, place, alias in PLACEMENTS if place == "header") == sorted(written)
    assert {alias for column, _, alias in PLACEMENTS if column == "traceparent"} == set(TRACE_HEADERS)


def test_every_transform_is_set_up_and_the_lifted_field_is_the_inserted_one() -> None:
    steps = CONFIG["transforms"].split(",")
    assert {key.split(".")[1] for key in CONFIG if key.startswith("transforms.")} == set(steps)
    assert CONFIG["transforms.lift.fields"] == CONFIG["transforms.specversion.static.field"]


def test_the_statements_make_what_the_connector_names() -> None:
    assert f"CREATE ROLE {CONFIG['database.user']} " in SQL
    assert f"CREATE PUBLICATION {CONFIG['publication.name']} FOR TABLE {table.name} " in SQL


def test_the_page_turns_off_what_would_refuse_every_write() -> None:
    """Rows of the outbox stay there, so they are older than any limit."""
    (words,) = re.findall(r"^fanfold config set (.*)$", PAGE, re.MULTILINE)
    assert parse_changes(words.split()) == {"outbox_age_max_s": 0}


def test_the_page_removes_keys_when_they_are_no_longer_answered_from() -> None:
    assert f"DELETE FROM {keys.name} WHERE {keys.c.created_at.name} < now() - interval '{KEPT_HOURS} hours'" in PAGE
