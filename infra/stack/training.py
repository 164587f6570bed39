"""Training of the Java runtime: what Kafka's classes and methods need is kept, so that a broker need not learn it anew.

`python -m infra.stack.training` (make setup) runs a broker under a load like Fanfold's; the runtime writes what it has
loaded, linked and counted into `java.TRAINED` when that broker ends. Without the file everything works as well.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import Consumer, KafkaException, Producer

from infra.cli import say
from infra.errors import FanfoldError, StackError
from infra.kafka import GROUP, producer_config
from infra.stack import java
from infra.stack.kafka_broker import kafka_part
from infra.stack.part import Part
from infra.stack.ports import choose_ports
from infra.topics import ACTIVITY, DELIVERIES, create_topics

LOAD_S = 15.0  # of transactions: by then the runtime has counted what is hot
PAUSE_S = 0.005  # between two of them
EVENTS, EVENT_BYTES, CHUNK_BYTES = 5, 200, 2_400  # of a transaction: tweets, and a message of their deliveries
QUIET = {"log_level": 0}  # the client would tell of a broker that comes and goes
POLL_S = 0.2
LEARNS = "-XX:AOTCacheOutput="
READY_WITHIN_S = 60.0
WRITTEN_WITHIN_S = 120.0


def train(target: Path, report: Callable[[str], None] = say) -> None:
    """Writes the file anew, whole or not at all. Raises `StackError` when the runtime writes none."""
    report(f"kafka: learning what it needs to start sooner, some {LOAD_S + 15:.0f} s, once")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as made:
        folder, written = Path(made), Path(made) / target.name
        ports = choose_ports(("kafka", "controller"), {}, {}, random.SystemRandom())
        part = kafka_part(folder / "kafka", ports["kafka"], ports["controller"])
        program, *options = (one for one in part.command if not one.startswith((java.USES_TRAINED, java.NO_WARNINGS)))
        learning = replace(part, command=(program, f"{LEARNS}{written}", *options))
        with _running(learning, folder / "kafka.log") as said:
            _load(part.address)
        if not written.is_file():
            raise StackError(f"the Java runtime wrote nothing of what it learned; it said:\n{said()}")
        with written.open("rb") as whole:
            os.fsync(whole.fileno())  # after a power cut there is all of it or nothing
        written.replace(target)


def fits(folder: Path) -> bool:
    """Whether what was learned is of this runtime and these jars."""
    command = java.java_command(folder, (), "-version")
    only_with_it = (*command[:-1], "-XX:AOTMode=on", "-version")
    return java.TRAINED.is_file() and subprocess.run(only_with_it, capture_output=True, check=False).returncode == 0


@contextmanager
def _running(part: Part, log: Path) -> Iterator[Callable[[], str]]:
    """The broker, ended when this is left; and what it said."""
    part.prepare()
    with log.open("wb") as output:
        process = subprocess.Popen(part.command, cwd=part.folder, stdout=output, stderr=output, start_new_session=True)
    try:
        until_s = time.monotonic() + READY_WITHIN_S
        while not part.probe(process.pid):
            if process.poll() is not None or time.monotonic() > until_s:
                raise StackError(f"kafka does not start; it said:\n{log.read_text(errors='replace')[-2_000:]}")
            time.sleep(0.05)
        yield lambda: log.read_text(errors="replace")[-2_000:]
        process.terminate()
        process.wait(WRITTEN_WITHIN_S)
    except subprocess.TimeoutExpired as error:
        raise StackError(f"kafka does not end within {WRITTEN_WITHIN_S:g} s") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the runtime writes the file by a process of its own
        process.wait()


def _load(bootstrap: str) -> None:
    """Transactions over both logs, read by a group as workers do."""
    create_topics(bootstrap)
    stop = threading.Event()
    reader = threading.Thread(target=_read, args=(bootstrap, stop), name="reader", daemon=True)
    reader.start()
    producer = Producer(producer_config(bootstrap) | {"transactional.id": "training"} | QUIET)
    try:
        producer.init_transactions()
        until_s = time.monotonic() + LOAD_S
        while time.monotonic() < until_s:
            producer.begin_transaction()
            for one in range(EVENTS):
                producer.produce(ACTIVITY.name, bytes(EVENT_BYTES), str(one))
            for partition in range(DELIVERIES.partitions):
                producer.produce(DELIVERIES.name, bytes(CHUNK_BYTES), partition=partition)
            producer.commit_transaction()
            time.sleep(PAUSE_S)
    finally:
        stop.set()
        reader.join()


def _read(bootstrap: str, stop: threading.Event) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP} | QUIET)
    consumer.subscribe([ACTIVITY.name, DELIVERIES.name])
    try:
        while not stop.is_set():
            consumer.consume(100, POLL_S)
    finally:
        consumer.close()


def main(_arguments: Sequence[str] = ()) -> int:
    """Trains unless that was done. A failure is told, and is none: brokers start without the file, more slowly."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _end)
    try:
        if fits(Path()):
            say("kafka: has learned before")
            return 0
        train(java.TRAINED)
    except (FanfoldError, KafkaException, OSError, subprocess.SubprocessError) as error:
        say(f"kafka: it has to learn at each start instead; `python -m infra.stack.training` tries again: {error}")
    else:
        say("kafka: learned")
    return 0


def _end(number: int, _frame: object) -> None:
    """The broker and its folder go too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
