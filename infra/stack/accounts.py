"""PostgreSQL refuses to run as root. As root we run it under an account of its own; otherwise as ourselves."""

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

from infra.errors import StackError
from infra.stack.part import User

ACCOUNT = "pgserver"  # the name that the wheel's own server uses
OTHERS_PASS = stat.S_IXOTH
GROUP_PASS = stat.S_IXGRP
GROUP_BITS = stat.S_IRWXG


def server_account() -> User | None:
    """The account for PostgreSQL when we are root (made if it is not there), or None: it runs as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        entry = _make_account()
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _make_account() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
    if shutil.which(command[0]) is not None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = done.stderr.strip()
    else:
        reason = "there is no useradd"
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise StackError(
            f"PostgreSQL refuses to run as root, and an account {ACCOUNT} could not be made for it ({reason}): "
            "make that account, or run Fanfold as another user"
        ) from None


def mode_that_lets_pass(mode: int, owner_group: int, gid: int) -> tuple[int, int]:
    """The mode and group a folder needs so that group `gid` can pass through it, and no more than that.

    A folder closed to its group is opened to that one group; where the group has rights already, which we
    must not hand on, it is opened to others. Passing is not listing: only names that are known can be reached.
    """
    if mode & OTHERS_PASS or (owner_group == gid and mode & GROUP_PASS):
        return mode, owner_group
    if owner_group == gid or not mode & GROUP_BITS:
        return mode | GROUP_PASS, gid
    return mode | OTHERS_PASS, owner_group


def let_pass(folder: Path, user: User) -> None:
    """Opens the way down to `folder` for the account, where it is closed."""
    for step in (folder, *folder.parents):
        now = step.stat()
        mode, group = mode_that_lets_pass(stat.S_IMODE(now.st_mode), now.st_gid, user.gid)
        try:
            if group != now.st_gid:
                os.chown(step, -1, group)
            if mode != stat.S_IMODE(now.st_mode):
                step.chmod(mode)
        except OSError as error:
            raise StackError(
                f"the account {user.name}, under which PostgreSQL runs, may not pass through {step} "
                f"({error.strerror}): use another --data-dir, or run Fanfold as another user"
            ) from error
