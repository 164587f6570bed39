"""What a data folder says about its stack: the record, the addresses, the lock, and what is left to clean."""

import signal
from pathlib import Path

import pytest

from infra.errors import ConfigurationError, StackError
from infra.settings import load_settings
from infra.stack.plan import SERVER_PORTS, addresses, port_names
from infra.stack.processes import ProcessId, myself
from infra.stack.state import (
    FolderLock,
    Mode,
    PartRecord,
    PartState,
    StackRecord,
    forget,
    holder_of,
    is_held,
    leftovers,
    load_record,
    record_of_holder,
    save_record,
    write_addresses,
)
from infra.stack.supervisor import FREE_BYTES_MIN, refuse_full_disk


def part_record(name: str, process: ProcessId | None) -> PartRecord:
    return PartRecord(name, "server", "127.0.0.1:1", PartState.RUNNING, process, int(signal.SIGTERM), 15.0)


def test_the_record_of_a_stack_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = StackRecord(myself(), True, (part_record("a1", ProcessId(7, 1.5)), part_record("a2", None)))
    save_record(tmp_path, record)
    assert load_record(tmp_path) == record


def test_a_folder_without_a_record_has_nothing_left_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert load_record(tmp_path) is None
    (tmp_path / "stack.json").write_text('{"parts": 3}')
    with pytest.raises(StackError, match=r"stack\.json cannot be read"):
        load_record(tmp_path)


def test_what_is_left_is_ended_in_reverse_order_and_parts_without_a_process_are_passed_over() -> None:
    first, gone, last = part_record("a", ProcessId(1, 1.0)), part_record("b", None), part_record("c", ProcessId(2, 1.0))
    assert leftovers([first, gone, last]) == [last, first]


def test_the_addresses_that_a_stack_leaves_are_settings_until_it_stops(tmp_path: Path) -> None:
    ports = {name: 20_000 + number for number, name in enumerate(port_names([("worker", 1)]))}
    write_addresses(tmp_path, addresses(ports))
    settings = load_settings({}, tmp_path)
    assert settings.database_url == f"postgresql+psycopg://postgres@127.0.0.1:{ports['postgres']}/fanfold"
    assert settings.kafka_bootstrap == f"127.0.0.1:{ports['kafka']}"
    assert settings.zookeeper_hosts == f"127.0.0.1:{ports['zookeeper']}/fanfold"
    assert settings.redis_nodes["c2"] == f"redis://127.0.0.1:{ports['c2']}"
    assert settings.api_port == ports["api"]
    forget(tmp_path)
    assert load_settings({}, tmp_path).database_url == ""


def test_every_server_and_role_has_a_port_of_its_own_name() -> None:
    names = port_names([("worker", 1), ("worker", 2), ("api", 1)])
    assert len(names) == len(set(names))
    assert {*SERVER_PORTS, "api", "worker-metrics", "worker-2-metrics", "api-metrics"} == set(names)


def test_a_second_holder_of_a_folder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, Mode.PROGRAM)
    assert is_held(tmp_path)
    holder = holder_of(tmp_path)
    assert holder is not None
    assert (holder.process, holder.mode) == (myself(), Mode.PROGRAM)
    with pytest.raises(StackError, match=rf"already \(pid {myself().pid}\).*fanfold down"):
        FolderLock(tmp_path, Mode.COMMAND)
    lock.release()
    assert not is_held(tmp_path)
    FolderLock(tmp_path, Mode.COMMAND).release()


def test_a_record_that_an_earlier_supervisor_wrote_does_not_speak_for_the_holder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, Mode.COMMAND)
    save_record(tmp_path, StackRecord(ProcessId(myself().pid, 1.0), True, ()))
    assert record_of_holder(tmp_path) is None
    save_record(tmp_path, StackRecord(myself(), True, ()))
    assert record_of_holder(tmp_path) is not None
    lock.release()


def test_a_data_folder_that_is_a_file_is_bad_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be the data folder"):
        FolderLock(tmp_path / "file", Mode.COMMAND)


def test_a_disk_that_is_nearly_full_is_refused_before_anything_starts(tmp_path: Path) -> None:
    refuse_full_disk(tmp_path, FREE_BYTES_MIN)
    with pytest.raises(StackError, match=r"only 1023 MiB are free.*make room"):
        refuse_full_disk(tmp_path, FREE_BYTES_MIN - 1)
