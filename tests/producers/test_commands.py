"""What the commands of the producers print, and how they end."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner, Result

from infra.errors import FanfoldError
from infra.settings import Settings
from producers import commands
from producers.erasing import Erased

DeleteUser = Callable[..., Result]


@pytest.fixture
def delete_user(monkeypatch: pytest.MonkeyPatch) -> DeleteUser:
    """`fanfold user delete 7`, whose erasing ends as is given."""

    def run(erased: Erased, *options: str) -> Result:
        @contextmanager
        def publisher(_: typer.Context) -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(delete_user=lambda *_: erased)

        monkeypatch.setattr(commands, "_publisher", publisher)
        return CliRunner().invoke(commands.user, ["delete", "7", *options], obj=Settings())

    return run


def test_a_user_who_was_wholly_deleted_is_told_so(delete_user: DeleteUser) -> None:
    done = delete_user(Erased(2, 3, complete=True), "--json")

    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"id": "7", "deleted": True, "complete": True, "tweets": 2, "follows": 3}
    assert "user 7 is deleted, with 2 tweets and 3 follows" in delete_user(Erased(2, 3, complete=True)).stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_user_of_whom_something_is_left_is_an_error_that_says_to_run_it_again(
    delete_user: DeleteUser, options: tuple[str, ...]
) -> None:
    done = delete_user(Erased(2, 3, complete=False), *options)

    assert isinstance(done.exception, FanfoldError)
    assert done.exception.exit_code == 1
    assert "some of his tweets or follows are left; run it again" in str(done.exception)
    assert ([json.loads(line)["complete"] for line in done.stdout.splitlines()]) == ([False] if options else [])
