"""ZooKeeper 3.9, standalone: the shard map and the live settings."""

from pathlib import Path

from infra.stack.java import FIRST_COMPILER, java_command, write_logging
from infra.stack.part import LOOPBACK, Part, ask

MAIN_CLASS = "org.apache.zookeeper.server.ZooKeeperServerMain"
OPTIONS = ("-Xms32m", "-Xmx128m", FIRST_COMPILER)  # a few hundred small znodes
ROOT = "/fanfold"  # everything of ours is below it


def zookeeper_part(folder: Path, port: int) -> Part:
    """A standalone server whose data is in `folder`."""
    return Part(
        name="zookeeper",
        kind="server",
        command=java_command(folder, OPTIONS, MAIN_CLASS, str(folder / "zoo.cfg")),
        address=f"{LOOPBACK}:{port}{ROOT}",
        folder=folder,
        prepare=lambda: _prepare(folder, port),
        probe=lambda _pid: ask(port, b"srvr").startswith(b"Zookeeper version"),
        ready_within_s=60,
    )


def configuration(folder: Path, port: int) -> str:
    """zoo.cfg. Sessions of 2 to 20 ticks: from 1 s, so that a dead client is noticed soon."""
    settings = {
        "dataDir": folder / "data",
        "clientPort": port,
        "clientPortAddress": LOOPBACK,
        "tickTime": 500,
        "maxClientCnxns": 0,  # all clients come from one address
        "admin.enableServer": "false",
        "4lw.commands.whitelist": "srvr, ruok",
        "autopurge.snapRetainCount": 3,
        "autopurge.purgeInterval": 1,  # hours
        "preAllocSize": 1024,  # kB of a new transaction log; the default takes 64 MB of disk
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _prepare(folder: Path, port: int) -> None:
    write_logging(folder)
    (folder / "zoo.cfg").write_text(configuration(folder, port), encoding="utf-8")
