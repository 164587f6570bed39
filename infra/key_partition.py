"""The partition of a key, as every producer of ours chooses it: murmur2, as Kafka's Java client defines it.

Code that holds an offset of a partition asks this; a test asks the broker where librdkafka put the same keys.
"""

_SEED = 0x9747B28C
_FACTOR = 0x5BD1E995
_32_BITS = 0xFFFFFFFF
_31_BITS = 0x7FFFFFFF  # Java's sign bit is cut off before the remainder


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key in a topic with so many."""
    return (_murmur2(key) & _31_BITS) % partitions


def _murmur2(data: bytes) -> int:
    whole = len(data) & ~3
    mixed = _SEED ^ len(data)
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _FACTOR & _32_BITS
        word = (word ^ (word >> 24)) * _FACTOR & _32_BITS
        mixed = (mixed * _FACTOR & _32_BITS) ^ word
    if whole < len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * _FACTOR & _32_BITS
    mixed = (mixed ^ (mixed >> 13)) * _FACTOR & _32_BITS
    return mixed ^ (mixed >> 15)
