import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cli import EXIT_INTERRUPTED, data_dir_first, wanted_command


def fanfold(*words: str, environ: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "infra", *words], capture_output=True, text=True, check=False, env=environ, timeout=60
    )


@pytest.mark.parametrize("slow", ["typer", "producers.commands"])
def test_ctrl_c_while_a_command_is_imported_ends_it_without_a_traceback(tmp_path: Path, slow: str) -> None:
    """The module that is imported slowly says that it is reached, and is held there."""
    place = tmp_path.joinpath(*slow.split(".")).with_suffix(".py")
    held = "import sys, time\nprint('reached', flush=True)\ntime.sleep(60)\n"
    script = (
        "import importlib.abc, importlib.util, sys\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        return importlib.util.spec_from_file_location(name, {str(place)!r}) if name == {slow!r} else None\n"
        "sys.meta_path.insert(0, Slow())\n"
        "sys.argv = ['fanfold', 'post', '--help']\n"
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from infra.start import main\n"
        "main()\n"
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(held)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reached\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)

    assert errors == b""
    assert process.returncode in (-signal.SIGINT, EXIT_INTERRUPTED)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["post", "1", "x"], "post"),
        (["--data-dir", "up", "down"], "down"),
        (["--data-dir=up", "down"], "down"),
        (["--help"], None),
        ([], None),
    ],
)
def test_the_command_is_the_first_word_that_is_no_option(arguments: list[str], command: str | None) -> None:
    assert wanted_command(arguments) == command


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        (["up", "--data-dir", "x", "--detach"], ["--data-dir", "x", "up", "--detach"]),
        (["up", "--data-dir=x"], ["--data-dir=x", "up"]),
        (["post", "1", "--", "--data-dir"], ["post", "1", "--", "--data-dir"]),
        (["up", "--data-dir"], ["--data-dir", "up"]),
    ],
)
def test_the_data_folder_may_be_named_anywhere(arguments: list[str], ordered: list[str]) -> None:
    assert data_dir_first(arguments) == ordered


def test_help_names_every_command() -> None:
    done = fanfold("--help")

    assert done.returncode == 0
    for command in (
        "up",
        "down",
        "status",
        "locks",
        "post",
        "timeline",
        "audit",
        "import",
        "demo",
        "worker",
        "counters",
        "like",
        "unlike",
        "dlq",
        "relay",
        "api",
        "shards",
    ):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("words", "environ", "code", "sentence"),
    [
        (["bogus"], {}, 2, "No such command 'bogus'"),
        (["post", "one", "x"], {}, 2, "'one' is not an id, which is a whole number from 1 to"),
        (["timeline", "0"], {}, 2, "'0' is not an id"),
        (["timeline", str(1 << 63)], {}, 2, f"'{1 << 63}' is not an id"),
        (["config", "show"], {"FANFOLD_TYPO": "1"}, 2, "FANFOLD_TYPO is not a setting"),
        (["config", "show"], {"FANFOLD_API_PORT": "x"}, 2, "FANFOLD_API_PORT is 'x', but must be"),
        (["timeline", "1"], {}, 3, "FANFOLD_DATABASE_URL is not set"),
        (["demo", "--tweets", "x"], {}, 2, "--follows and --tweets belong together"),
        (["demo", "--follows", "no", "--tweets", "no"], {}, 2, "no is not a file"),
        (["demo", "--threshold", "0"], {}, 2, "Invalid value for '--threshold'"),
        (["demo", "--workers", "0"], {}, 2, "Invalid value for '--workers'"),
        (["demo", "--count", "-1"], {}, 2, "Invalid value for '--count'"),
        (["demo", "--active", "0"], {}, 2, "--active is 0.0, but must be above 0"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    tmp_path: Path, words: list[str], environ: dict[str, str], code: int, sentence: str
) -> None:
    done = fanfold("--data-dir", str(tmp_path), *words, environ=environ)

    assert done.returncode == code, done.stderr
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_settings_in_force_are_one_object_with_secrets_hidden(tmp_path: Path) -> None:
    environ = {"FANFOLD_DATABASE_URL": "postgresql://me:secret@h:1/d", "FANFOLD_REDIS_NODES": "a1=redis://:hush@h:1"}

    done = fanfold("--data-dir", str(tmp_path), "config", "show", "--json", environ=environ)

    shown = json.loads(done.stdout)
    assert shown["FANFOLD_DATABASE_URL"] == "postgresql://me:***@h:1/d"
    assert "secret" not in done.stdout
    assert "hush" not in done.stdout
