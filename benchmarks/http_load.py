"""A lean HTTP client that posts tweets over many connections, as a process of its own.

Input: one JSON object on standard input (see `Load`). Output: one on standard output (see `Loaded`). It speaks just
enough HTTP/1.1 to keep its own share of the processors small, and reports that share.
"""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

HEAD_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Load:
    """Each connection posts with one of the tokens, one request after the other, for `seconds`."""

    host: str
    port: int
    tokens: Sequence[str]
    connections: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it: tweets posted, latency of each in milliseconds, answers that were not 201, and the processor
    time that this client took."""

    seconds: float
    latency_ms: Sequence[float]
    refused: int
    cpu_s: float


def run_load(load: Load) -> Loaded:
    """Runs the client as a process and waits for it."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http_load"],
        input=json.dumps(asdict(load)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Loaded(**json.loads(done.stdout))


async def _post_for(load: Load, token: str, until_s: float, latency_ms: list[float]) -> int:
    reader, writer = await asyncio.open_connection(load.host, load.port, limit=HEAD_BYTES_MAX)
    body = json.dumps({"text": "A tweet that was posted to measure"}).encode()
    request = (
        f"POST /v1/tweets HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    refused = 0
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_content_length(head))
        if head.startswith(b"HTTP/1.1 201"):
            latency_ms.append((time.monotonic() - began_s) * 1000)
        else:
            refused += 1
    writer.close()
    return refused


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without Content-Length: {head!r}")


async def _main(load: Load) -> Loaded:
    latency_ms: list[float] = []
    began_s = time.monotonic()
    refused = await asyncio.gather(
        *[
            _post_for(load, load.tokens[at % len(load.tokens)], began_s + load.seconds, latency_ms)
            for at in range(load.connections)
        ]
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Loaded(time.monotonic() - began_s, latency_ms, sum(refused), used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(asyncio.run(_main(Load(**json.load(sys.stdin)))))))
