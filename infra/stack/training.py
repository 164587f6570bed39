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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import Consumer, KafkaException, Producer

from infra.cli import say
from infra.errors import FanfoldError, StackError
from infra.kafka import GROUP, producer_config
from infra.role import stop_on_signals
from infra.stack import java
from infra.stack.child import Child
from infra.stack.kafka_broker import kafka_part
from infra.stack.ports import choose_ports
from infra.stack.processes import POLL_S, tail
from infra.topics import ACTIVITY, DELIVERIES, create_topics

LOAD_S = 15.0  # of transactions: by then the runtime has counted what is hot
PAUSE_S = 0.005  # between two of them
EVENTS, EVENT_BYTES, CHUNK_BYTES = 5, 200, 2_400  # of a transaction: tweets, and a message of their deliveries
QUIET = {"log_level": 0}  # the client would tell of a broker that comes and goes
CONSUME_S = 0.2
LEARNS = "-XX:AOTCacheOutput="
WRITTEN_WITHIN_S = 120.0  # when the broker ends
LOOK_WITHIN_S = 60.0  # at whether a file fits


def train(target: Path, stop: threading.Event, report: Callable[[str], None] = say) -> None:
    """Writes the file anew, whole or not at all. Raises `StackError` when the runtime writes none, or stopped."""
    report(f"kafka: learning what it needs to start sooner, some {LOAD_S + 15:.0f} s, once")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as made:
        folder, written = Path(made), Path(made) / target.name
        ports = choose_ports(("kafka", "controller"), {}, {}, random.SystemRandom())
        part = kafka_part(folder / "kafka", ports["kafka"], ports["controller"])
        program, *options = (one for one in part.command if not one.startswith((java.USES_TRAINED, java.NO_WARNINGS)))
        command = program, f"{LEARNS}{written}", *options
        broker = Child(replace(part, command=command, stop_signal=signal.SIGKILL, stop_within_s=0.0), folder)
        try:
            broker.begin()
            broker.wait_ready(time.monotonic() + part.ready_within_s, stop)
            _load(part.address, stop)
            _let_write(broker, stop)
        finally:
            broker.end()  # and the process of its own by which it writes
        if stop.is_set():
            raise StackError("it was stopped while it learned")
        if not written.is_file():
            raise StackError(f"the Java runtime wrote nothing of what it learned; it said:\n{tail(broker.log)}")
        with written.open("rb") as whole:
            os.fsync(whole.fileno())  # after a power cut there is all of it or nothing
        written.replace(target)


def fits(folder: Path) -> bool:
    """Whether what was learned is of this runtime and these jars; looked at from a folder in which nothing is made."""
    only_with_it = java.java_command(folder, ("-XX:AOTMode=on",), "-version")
    if not java.TRAINED.is_file():
        return False
    return subprocess.run(only_with_it, capture_output=True, check=False, timeout=LOOK_WITHIN_S).returncode == 0


def _let_write(broker: Child, stop: threading.Event) -> None:
    """The runtime writes when it is asked to end."""
    broker.signal(signal.SIGTERM)
    until_s = time.monotonic() + WRITTEN_WITHIN_S
    while broker.exit_code() is None and time.monotonic() < until_s and not stop.wait(POLL_S):
        pass


def _load(bootstrap: str, stop: threading.Event) -> None:
    """Transactions over both logs, read by a group as workers do."""
    create_topics(bootstrap)
    done = threading.Event()
    reader = threading.Thread(target=_read, args=(bootstrap, done), name="reader", daemon=True)
    reader.start()
    producer = Producer(producer_config(bootstrap) | {"transactional.id": "training"} | QUIET)
    try:
        producer.init_transactions()
        until_s = time.monotonic() + LOAD_S
        while time.monotonic() < until_s and not stop.wait(PAUSE_S):
            producer.begin_transaction()
            for one in range(EVENTS):
                producer.produce(ACTIVITY.name, bytes(EVENT_BYTES), str(one))
            for partition in range(DELIVERIES.partitions):
                producer.produce(DELIVERIES.name, bytes(CHUNK_BYTES), partition=partition)
            producer.commit_transaction()
    finally:
        done.set()
        reader.join()


def _read(bootstrap: str, done: threading.Event) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP} | QUIET)
    consumer.subscribe([ACTIVITY.name, DELIVERIES.name])
    try:
        while not done.is_set():
            consumer.consume(100, CONSUME_S)
    finally:
        consumer.close()


def main(_arguments: Sequence[str] = ()) -> int:
    """Trains unless that was done. A failure is told, and is none: brokers start without the file, more slowly. To be
    told to stop is one."""
    stop = stop_on_signals()
    signal.signal(signal.SIGHUP, lambda *_: stop.set())
    try:
        if fits(Path()):
            say("kafka: has learned before")
            return 0
        train(java.TRAINED, stop)
    except (FanfoldError, KafkaException, OSError, subprocess.SubprocessError) as error:
        say(f"kafka: it has to learn at each start instead; `python -m infra.stack.training` tries again: {error}")
        return int(stop.is_set())
    say("kafka: learned")
    return 0


if __name__ == "__main__":
    sys.exit(main())
