"""Every key pattern, one function each. All values of a user lie in the user's slot, a body and
the counts in the tweet's.

key            type    bound              time to live        written by
n              hash    6 fields           none                registrar (name, run_id, incarnation, built),
                                                              coordinator (epoch, open), deliver agent, rebuild (built)
c:<partition>  hash    6 fields           none                deliver agent
h:<8 bytes>    list    length + 65 ids    30 days, renewed    deliver agent, rebuild
u:<8 bytes>    list    length + 65 ids    30 days, renewed    deliver agent, rebuild, publish (put_own)
f:<8 bytes>    set     follows of a user  30 days, renewed    deliver agent, readers (by token)
x:<tweet id>   string  empty              20 minutes          deliver agent
b:<8 bytes>    string  about 1.5 kB       30 days             readers, publish (put_bodies), delete (tombstone)
r:<16 bytes>   string  16 digits          2 s at most         HTTP API (rate limits)
k              hash    3 fields           none                counters
k:<8 bytes>    hash    7 fields, 1,000    1 hour              counters, readers, publish (likes)
                       users' words

<8 bytes> is an id, big-endian: a page of keys is a run of 10-byte keys. <16 bytes> are
the beginning of a hash. lua/timelines.lua, lua/rate_limits.lua and lua/counts.lua open with the same table. A new
pattern belongs in `_OURS` too: a registrar does not empty a server that has other keys.
"""

import re

import numpy as np
import numpy.typing as npt

from infra.slots import Ids

HOME = b"h:"
USER = b"u:"
CELEBRITIES = b"f:"
BODY = b"b:"
COUNTS = b"k:"
NODE = b"n"
COUNTS_NODE = b"k"
BUCKET = b"r:"
BUCKET_HASH_BYTES = 16  # two of a billion clients share a bucket with a chance of 10^-21
KEY_BYTES = 10

_OURS = re.compile(rb"[nk]|c:\d+|[hufbk]:.{8}|r:.{16}|x:\d+", re.DOTALL)


def home_timeline(user_id: int) -> bytes:
    """The list of one user's home timeline."""
    return HOME + user_id.to_bytes(8, "big")


def user_timeline(user_id: int) -> bytes:
    """The list of one author's own tweets."""
    return USER + user_id.to_bytes(8, "big")


def celebrities(user_id: int) -> bytes:
    """The set of celebrities whom one user follows."""
    return CELEBRITIES + user_id.to_bytes(8, "big")


def body(tweet_id: int) -> bytes:
    """One tweet's body, or its tombstone."""
    return BODY + tweet_id.to_bytes(8, "big")


def counts(tweet_id: int) -> bytes:
    """One tweet's counts."""
    return COUNTS + tweet_id.to_bytes(8, "big")


def control(partition: int) -> str:
    """The control record of one partition of the deliveries log."""
    return f"c:{partition}"


def bucket(digest: bytes) -> bytes:
    """The token bucket of whatever has this hash."""
    return BUCKET + digest[:BUCKET_HASH_BYTES]


def is_ours(key: bytes) -> bool:
    """Whether a key has one of these forms."""
    return _OURS.fullmatch(key) is not None


def id_of(key: bytes) -> int:
    """The user or tweet id inside a 10-byte key."""
    return int.from_bytes(key[2:KEY_BYTES], "big")


def page_of_keys(ids: Ids, prefixes: npt.NDArray[np.uint8] | bytes) -> npt.NDArray[np.uint8]:
    """Rows of 10 bytes, one key an id. `prefixes` is one prefix letter for all, or one an id."""
    page = np.empty((len(ids), KEY_BYTES), dtype=np.uint8)
    page[:, 0] = prefixes[0] if isinstance(prefixes, bytes) else prefixes
    page[:, 1] = HOME[1]
    page[:, 2:] = ids.astype(">u8").view(np.uint8).reshape(-1, 8)
    return page
