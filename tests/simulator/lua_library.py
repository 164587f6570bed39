"""The product's Function library in Lua 5.1, as a Redis server runs it, over whatever server is given to a call."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Protocol

from lupa import lua51

# A trim, a look and a push each have a limit that small timelines never reach. With these a list of eight entries
# meets all of them: the numbers are other ones, the code is the same.
SMALL_LIMITS: Mapping[str, int] = {"TRIM_SLACK": 3, "LOOK_FIRST": 2, "PUSH_MAX": 4}

Edits = Sequence[tuple[str, str]]  # of the library's text: what stands there once, and what to put there


class ErrorReply(Exception):
    """What a server answers instead of a value."""


class Server(Protocol):
    """What a Function calls."""

    def command(self, name: bytes, arguments: Sequence[bytes]) -> Any:
        """One command's reply; raises `ErrorReply`."""


def source(limits: Mapping[str, int] = SMALL_LIMITS, edits: Edits = ()) -> str:
    """The text of lua/timelines.lua with other limits and some edits; each must fit exactly one place."""
    text = files("infra.lua").joinpath("timelines.lua").read_text(encoding="utf-8")
    for name, value in limits.items():
        text, count = re.subn(rf"(?m)^local {name} = \d+", f"local {name} = {value}", text)
        assert count == 1, f"timelines.lua has {count} lines that set {name}"
    for old, new in edits:
        assert text.count(old) == 1, f"timelines.lua has {text.count(old)} places with {old!r}"
        text = text.replace(old, new)
    return text


class Library:
    """A loaded library. For one thread; servers may share it: no answer depends on what it keeps between calls."""

    def __init__(self, text: str) -> None:
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._functions: dict[str, Any] = {}
        self._reading: set[str] = set()
        self._server: Server | None = None
        self._lua.globals()[b"redis"] = self._lua.table_from(
            {
                b"call": self._call,
                b"pcall": self._pcall,
                b"error_reply": lambda text: self._lua.table_from({b"err": text}),
                b"register_function": self._register,
            }
        )
        self._lua.execute(text.partition("\n")[2].encode())

    def run(self, server: Server, function: str, arguments: Sequence[bytes], *, read_only: bool) -> Any:
        """Calls a Function. Raises `ErrorReply`; what it wrote before stays, as on a server."""
        if function not in self._functions:
            raise ErrorReply("ERR Function not found")
        if read_only and function not in self._reading:
            raise ErrorReply("ERR Can not execute a script with write flag using *_ro command.")
        self._server = server
        keys, values = self._lua.table_from([]), self._lua.table_from(arguments)
        try:
            return self._from_lua(self._functions[function](keys, values))
        except lua51.LuaError as error:
            raise ErrorReply(f"ERR user_function: {error}") from error
        finally:
            self._server = None

    def _register(self, named: Any, callback: Callable[..., Any] | None = None) -> None:
        if callback is not None:
            self._functions[named.decode()] = callback
            return
        name = named[b"function_name"].decode()
        self._functions[name] = named[b"callback"]
        flags = named[b"flags"]
        if flags is not None and b"no-writes" in list(flags.values()):
            self._reading.add(name)

    def _call(self, name: bytes, *arguments: bytes | float) -> Any:
        assert self._server is not None, "redis.call is for Functions, not for the load"
        return self._to_lua(self._server.command(name.upper(), [as_bytes(one) for one in arguments]))

    def _pcall(self, name: bytes, *arguments: bytes | float) -> Any:
        try:
            return self._call(name, *arguments)
        except ErrorReply as error:
            return self._lua.table_from({b"err": str(error).encode()})

    def _to_lua(self, value: Any) -> Any:
        if value is None:
            return False
        if isinstance(value, list):
            return self._lua.table_from([self._to_lua(one) for one in value])
        return value

    def _from_lua(self, value: Any) -> Any:
        """As Redis makes replies: a number loses its fraction, a table ends before its first nil."""
        if value is None or value is False:
            return None
        if isinstance(value, int | float):
            return int(value)
        if isinstance(value, bytes):
            return value
        if (error := value[b"err"]) is not None:
            raise ErrorReply(error.decode())
        if (status := value[b"ok"]) is not None:
            return status
        found, place = [], 1
        while (one := value[place]) is not None:
            found.append(self._from_lua(one))
            place += 1
        return found


def as_bytes(argument: bytes | str | float) -> bytes:
    """An argument as a client or a script sends it."""
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, float):
        return b"%d" % argument if argument.is_integer() else repr(argument).encode()
    return str(argument).encode()
