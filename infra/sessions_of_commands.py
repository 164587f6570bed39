"""Sessions of commands that look once: opened from the settings, closed at the end.

kazoo warns of each try to connect; a command says in one sentence that ZooKeeper does not answer.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import typer

from infra.cli import settings_of
from infra.database import make_engine
from infra.zookeeper import ZooKeeper


@contextmanager
def zookeeper_of(context: typer.Context) -> Iterator[ZooKeeper]:
    """A session with ZooKeeper. Raises `StackError` without an address, `ZooKeeperUnavailable`."""
    kazoo = logging.getLogger("kazoo")
    before = kazoo.level
    kazoo.setLevel(logging.ERROR)
    try:
        zookeeper = ZooKeeper(settings_of(context).need("zookeeper_hosts"))
        try:
            yield zookeeper
        finally:
            zookeeper.close()
    finally:
        kazoo.setLevel(before)


@contextmanager
def database_of(context: typer.Context) -> Iterator[sa.Engine]:
    """An engine, which connects at the first question. Raises `StackError` without an address."""
    engine = make_engine(settings_of(context).need("database_url"))
    try:
        yield engine
    finally:
        engine.dispose()
