"""Logs: our events and the libraries' lines in one form, which follows the reader."""

import json
import logging
import sys
from io import StringIO
from typing import Any

import pytest
import structlog

from infra.logs import configure_logs, wants_json
from infra.settings import LogFormat, LogLevel, Settings


class Terminal(StringIO):
    """A standard error that a person looks at."""

    def isatty(self) -> bool:
        return True


Output = pytest.CaptureFixture[str]


def lines(output: Output) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("log_format", "terminal", "as_json"),
    [
        ("auto", True, False),
        ("auto", False, True),
        ("json", True, True),
        ("console", False, False),
    ],
)
def test_people_get_the_console_and_programs_get_json(
    monkeypatch: pytest.MonkeyPatch, log_format: LogFormat, terminal: bool, as_json: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else StringIO())

    assert wants_json(Settings(log_format=log_format)) is as_json


def test_an_event_is_one_line_with_its_fields(capsys: Output) -> None:
    configure_logs(Settings())

    structlog.get_logger().info("ready", pid=7)

    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["pid"]) == ("ready", "info", 7)
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("library", ["faust.worker", "aiokafka.consumer.fetcher", "kazoo.client", "mode.services"])
def test_the_line_of_a_library_has_the_same_form(capsys: Output, library: str) -> None:
    configure_logs(Settings())

    logging.getLogger(library).warning("no broker at %s", "127.0.0.1:1")

    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["logger"]) == ("no broker at 127.0.0.1:1", "warning", library)
    assert line["timestamp"].endswith("Z")


def test_a_traceback_of_a_library_is_a_field_of_its_line(capsys: Output) -> None:
    configure_logs(Settings())
    try:
        raise ValueError("five")
    except ValueError:
        logging.getLogger("faust").exception("crashed")

    (line,) = lines(capsys)
    assert "ValueError: five" in line["exception"]


@pytest.mark.parametrize(("level", "said"), [("debug", 3), ("info", 1), ("warn", 1), ("error", 0)])
def test_libraries_speak_of_warnings_and_of_more_only_when_we_debug(capsys: Output, level: LogLevel, said: int) -> None:
    configure_logs(Settings(log_level=level))

    for number in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger("kazoo").log(number, "it happened")

    assert len(lines(capsys)) == said
