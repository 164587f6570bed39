"""A Redis node in memory: the commands that the product uses, with the answers that a real server gives.

tests/contracts/test_simulated_redis.py asks both the same. Time is the simulation's.
"""

from ast import literal_eval
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from tests.simulator.lua_library import ErrorReply, Library, as_bytes

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
DUMPED = b"dumped "
SCAN_PARTS = 3  # answers of one look at all keys

Argument = bytes | str | int | float
Value = list[bytes] | set[bytes] | dict[bytes, bytes] | bytes


class RedisServer:
    """One server. For one thread. `touched` has the keys that commands have written since it was last cleared."""

    def __init__(self, library: Library, clock_ms: Callable[[], int]) -> None:
        self._library = library
        self._clock_ms = clock_ms
        self._values: dict[bytes, Value] = {}
        self._expires_ms: dict[bytes, int] = {}
        self.touched: set[bytes] = set()
        self._commands: dict[bytes, Callable[..., Any]] = {
            name.removeprefix("_do_").upper().encode(): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    def execute(self, *arguments: Argument) -> Any:
        """One command of a client. Raises `ErrorReply`."""
        name, *rest = (as_bytes(one) for one in arguments)
        if name in (b"FCALL", b"FCALL_RO"):
            return self._library.run(self, rest[0].decode(), rest[2:], read_only=name == b"FCALL_RO")
        return self.command(name, rest)

    def command(self, name: bytes, arguments: Sequence[bytes]) -> Any:
        """One plain command."""
        if name not in self._commands:
            raise ErrorReply(f"ERR unknown command '{name.decode()}'")
        return self._commands[name](*arguments)

    def all_keys(self) -> list[bytes]:
        """All that is there."""
        return [key for key in list(self._values) if self._value(key) is not None]

    def volatile_keys(self) -> list[bytes]:
        """What may be evicted: it has a time to live."""
        return [key for key in list(self._expires_ms) if self._value(key) is not None]

    def value(self, key: bytes) -> Value | None:
        """What is there, itself."""
        return self._value(key)

    # Keys

    def _value(self, key: bytes) -> Value | None:
        expires_ms = self._expires_ms.get(key)
        if expires_ms is not None and expires_ms <= self._clock_ms():
            self._remove(key)
        return self._values.get(key)

    def _remove(self, key: bytes) -> bool:
        self._expires_ms.pop(key, None)
        self.touched.add(key)
        return self._values.pop(key, None) is not None

    def _put(self, key: bytes, value: Value) -> None:
        self.touched.add(key)
        if value or isinstance(value, bytes):
            self._values[key] = value
        else:
            self._remove(key)  # nothing is empty: the key goes with its last element

    def _list(self, key: bytes) -> list[bytes]:
        value = self._value(key)
        if value is None or isinstance(value, list):
            return value or []
        raise ErrorReply(WRONG_TYPE)

    def _set(self, key: bytes) -> set[bytes]:
        value = self._value(key)
        if value is None or isinstance(value, set):
            return value or set()
        raise ErrorReply(WRONG_TYPE)

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        value = self._value(key)
        if value is None or isinstance(value, dict):
            return value or {}
        raise ErrorReply(WRONG_TYPE)

    def _string(self, key: bytes) -> bytes | None:
        value = self._value(key)
        if value is None or isinstance(value, bytes):
            return value
        raise ErrorReply(WRONG_TYPE)

    def _do_del(self, *keys: bytes) -> int:
        return sum(self._remove(key) for key in keys if self._value(key) is not None)

    def _do_unlink(self, *keys: bytes) -> int:
        return self._do_del(*keys)

    def _do_scan(self, cursor: bytes, *_: bytes) -> list[Any]:
        """A part of the keys by their hash, so that what is there all the time is in one of the answers."""
        part = int(cursor)
        found = [key for key in self.all_keys() if crc32(key) % SCAN_PARTS == part]
        return [b"%d" % ((part + 1) % SCAN_PARTS), found]

    def _do_exists(self, *keys: bytes) -> int:
        return sum(self._value(key) is not None for key in keys)

    def _do_expire(self, key: bytes, seconds: bytes, condition: bytes = b"") -> int:
        if self._value(key) is None:
            return 0
        expires_ms = self._clock_ms() + int(seconds) * 1000
        if condition == b"GT" and self._expires_ms.get(key, expires_ms) >= expires_ms:  # no time to live is infinite
            return 0
        self._expires_ms[key] = expires_ms
        return 1

    def _do_ttl(self, key: bytes) -> int:
        if self._value(key) is None:
            return -2
        if key not in self._expires_ms:
            return -1
        return (self._expires_ms[key] - self._clock_ms() + 500) // 1000

    def _do_pttl(self, key: bytes) -> int:
        if self._value(key) is None or key not in self._expires_ms:
            return -2 if self._value(key) is None else -1
        return self._expires_ms[key] - self._clock_ms()

    def _do_dump(self, key: bytes) -> bytes | None:
        """Another form than a real server's, which nobody looks into."""
        value = self._value(key)
        return None if value is None else DUMPED + repr(value).encode()

    def _do_restore(self, key: bytes, left_ms: bytes, payload: bytes, *options: bytes) -> bytes:
        if self._value(key) is not None and b"REPLACE" not in options:
            raise ErrorReply("BUSYKEY Target key name already exists.")
        if not payload.startswith(DUMPED):
            raise ErrorReply("ERR DUMP payload version or checksum are wrong")
        self._remove(key)
        self._put(key, literal_eval(payload.removeprefix(DUMPED).decode()))
        if int(left_ms):
            self._expires_ms[key] = self._clock_ms() + int(left_ms)
        return b"OK"

    def _do_flushall(self, *_: bytes) -> bytes:
        self._values.clear()
        self._expires_ms.clear()
        return b"OK"

    def _do_time(self) -> list[bytes]:
        seconds, ms = divmod(self._clock_ms(), 1000)
        return [b"%d" % seconds, b"%d" % (ms * 1000)]

    # Lists

    def _do_lindex(self, key: bytes, index: bytes) -> bytes | None:
        values, at = self._list(key), int(index)
        return values[at] if -len(values) <= at < len(values) else None

    def _do_llen(self, key: bytes) -> int:
        return len(self._list(key))

    def _do_lrange(self, key: bytes, first: bytes, last: bytes) -> list[bytes]:
        values = self._list(key)
        return values[_bounds(first, last, len(values))]

    def _do_rpush(self, key: bytes, *values: bytes) -> int:
        self._put(key, [*self._list(key), *values])
        return len(self._list(key))

    def _do_rpushx(self, key: bytes, *values: bytes) -> int:
        return self._do_rpush(key, *values) if self._list(key) else 0

    def _do_lset(self, key: bytes, index: bytes, value: bytes) -> bytes:
        values, at = self._list(key), int(index)
        if not values:
            raise ErrorReply("ERR no such key")
        if not -len(values) <= at < len(values):
            raise ErrorReply("ERR index out of range")
        values[at] = value
        self._put(key, values)
        return b"OK"

    def _do_lrem(self, key: bytes, count: bytes, value: bytes) -> int:
        values, wanted = list(self._list(key)), int(count)
        places = [at for at, one in enumerate(values) if one == value]
        if wanted:
            places = places[:wanted] if wanted > 0 else places[wanted:]
        for at in reversed(places):
            del values[at]
        if places:
            self._put(key, values)
        return len(places)

    def _do_ltrim(self, key: bytes, first: bytes, last: bytes) -> bytes:
        values = self._list(key)
        if values:
            self._put(key, values[_bounds(first, last, len(values))])
        return b"OK"

    # Hashes

    def _do_hset(self, key: bytes, *pairs: bytes) -> int:
        fields = dict(self._hash(key))
        before = len(fields)
        fields.update(zip(pairs[::2], pairs[1::2], strict=True))
        self._put(key, fields)
        return len(fields) - before

    def _do_hget(self, key: bytes, field: bytes) -> bytes | None:
        return self._hash(key).get(field)

    def _do_hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        found = self._hash(key)
        return [found.get(field) for field in fields]

    def _do_hincrby(self, key: bytes, field: bytes, by: bytes) -> int:
        value = int(self._hash(key).get(field, b"0")) + int(by)
        self._do_hset(key, field, b"%d" % value)
        return value

    # Sets

    def _do_sadd(self, key: bytes, *members: bytes) -> int:
        found = self._set(key)
        self._put(key, found | set(members))
        return len(set(members) - found)

    def _do_srem(self, key: bytes, *members: bytes) -> int:
        found = self._set(key)
        gone = found & set(members)
        if gone:
            self._put(key, found - gone)
        return len(gone)

    def _do_sismember(self, key: bytes, member: bytes) -> int:
        return int(member in self._set(key))

    def _do_scard(self, key: bytes) -> int:
        return len(self._set(key))

    def _do_smembers(self, key: bytes) -> list[bytes]:
        return sorted(self._set(key))

    # Strings

    def _do_get(self, key: bytes) -> bytes | None:
        return self._string(key)

    def _do_mget(self, *keys: bytes) -> list[bytes | None]:
        found = [self._value(key) for key in keys]
        return [one if isinstance(one, bytes) else None for one in found]

    def _do_set(self, key: bytes, value: bytes, *options: bytes) -> bytes | None:
        if b"NX" in options and self._value(key) is not None:
            return None
        self._remove(key)
        self._put(key, value)
        if b"EX" in options:
            self._do_expire(key, options[options.index(b"EX") + 1])
        return b"OK"


def _bounds(first: bytes, last: bytes, size: int) -> slice:
    """Both ends are within, and count from the end when below zero."""
    start, stop = (at + size if at < 0 else at for at in (int(first), int(last)))
    return slice(max(start, 0), max(stop + 1, 0))
