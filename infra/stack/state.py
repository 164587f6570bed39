"""What a data folder says about its stack: who holds it, which processes it has, and where its servers are.

lock         held (flock) by the supervisor for as long as it lives; its pid stands in it
stack.json   every part's process: written at each change, so that a later `up` or `down` can clean up
stack.env    the servers' addresses for other processes: there while the servers serve
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from infra.errors import ConfigurationError, StackError
from infra.readiness import write_atomically
from infra.settings import STACK_ENV
from infra.stack.part import Kind
from infra.stack.processes import ProcessId, myself, same_process

STATE_FILE = "stack.json"
LOCK_FILE = "lock"


class PartState(StrEnum):
    """starting → running ⇄ restarting → failed; any → stopped."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    FAILED = "failed"  # it ended too often, or said that no start would help: the stack goes on without it
    STOPPED = "stopped"


class Mode(StrEnum):
    """How the holder wants to be asked to stop."""

    COMMAND = "command"  # `fanfold up`: SIGTERM
    PROGRAM = "program"  # the demo or the tests, which use the stack inside: SIGINT, like Ctrl-C


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One part as stack.json has it. `process` is None while it is not there."""

    name: str
    kind: Kind
    address: str
    state: PartState
    process: ProcessId | None
    stop_signal: int
    stop_within_s: float
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class StackRecord:
    """stack.json. `supervisor` wrote it: a record of another than the folder's holder tells of an earlier stack."""

    supervisor: ProcessId
    ready: bool
    parts: tuple[PartRecord, ...]


def save_record(data_dir: Path, record: StackRecord) -> None:
    """Writes stack.json in one step."""
    write_atomically(data_dir / STATE_FILE, json.dumps(asdict(record), indent=1) + "\n")


def load_record(data_dir: Path) -> StackRecord | None:
    """stack.json, or None when there is none: nothing was left."""
    path = data_dir / STATE_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        parts = tuple(_part(part) for part in data["parts"])
        return StackRecord(ProcessId(**data["supervisor"]), ready=bool(data["ready"]), parts=parts)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{path} cannot be read ({error!r}): end the processes of that stack and delete it") from error


def _part(data: Mapping[str, object]) -> PartRecord:
    fields = dict(data)
    process = fields.pop("process")
    known = None if process is None else ProcessId(**process)  # type: ignore[arg-type]
    state = PartState(str(fields.pop("state")))
    return PartRecord(process=known, state=state, **fields)  # type: ignore[arg-type]


def write_addresses(data_dir: Path, addresses: Mapping[str, str]) -> None:
    """stack.env, which infra/settings.py reads."""
    lines = "".join(f"{key}={value}\n" for key, value in addresses.items())
    write_atomically(data_dir / STACK_ENV, "# Written by the embedded stack, and removed when it stops.\n" + lines)


def forget(data_dir: Path) -> None:
    """Removes what says that a stack runs here."""
    for name in (STACK_ENV, STATE_FILE):
        (data_dir / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a folder's lock."""

    process: ProcessId
    mode: Mode


class FolderLock:
    """Held for as long as this object lives or until `release`; the system drops it when the process ends."""

    def __init__(self, data_dir: Path, mode: Mode) -> None:
        """Takes the lock, or raises `StackError` naming the process that has it."""
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._file = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigurationError(f"{data_dir} cannot be the data folder: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            holder = holder_of(data_dir)
            who = f" (pid {holder.process.pid})" if holder else ""
            raise StackError(
                f"a stack is running in {data_dir} already{who}: `fanfold status` shows it, `fanfold down` stops it"
            ) from None
        me = myself()
        os.truncate(self._file, 0)
        os.pwrite(self._file, json.dumps({"process": asdict(me), "mode": mode}).encode(), 0)

    def release(self) -> None:
        """Lets others have the folder."""
        os.close(self._file)


def is_held(data_dir: Path) -> bool:
    """Whether a live process holds the folder."""
    try:
        file = os.open(data_dir / LOCK_FILE, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def record_of_holder(data_dir: Path) -> StackRecord | None:
    """What the process that holds the folder has written about its stack; None as long as it has not."""
    holder, record = holder_of(data_dir), load_record(data_dir)
    return record if holder and record and same_process(record.supervisor, holder.process) else None


def holder_of(data_dir: Path) -> Holder | None:
    """The process that took the lock last; None while it has not yet written who it is."""
    try:
        data = json.loads((data_dir / LOCK_FILE).read_text(encoding="utf-8"))
        return Holder(ProcessId(**data["process"]), Mode(data["mode"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def leftovers(parts: Iterable[PartRecord]) -> list[PartRecord]:
    """The parts that have a process on record, last started first: the order in which to end them."""
    return [part for part in reversed(list(parts)) if part.process is not None]
