"""Which dead reactions were overtaken: the same user said something later about the same tweet.

Likes keep no time, so what came later is only in their log, which is read from the oldest of these letters on, and
among the letters themselves. What the log no longer has might be such a word, and counts as one.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

from confluent_kafka import IsolationLevel
from confluent_kafka.admin import OffsetSpec

from infra import dead_letters
from infra.errors import KafkaUnavailable, PositionLost, Undecodable
from infra.kafka import CALL_TIMEOUT_S
from infra.kafka_logs import admin_client, kafka_errors, log_offsets
from infra.log_reader import Log, LogReader
from infra.reactions import decode_reaction, reactions_partition
from infra.topics import REACTIONS
from streams.fold import Pair
from streams.read_dead_letters import Buried

READ_WITHIN_S = 10.0  # for the next message of the log
OFFSET_DIGITS_MAX = 19


@dataclass(frozen=True, slots=True)
class Word:
    """A dead reaction that can be read, and where it was in its log."""

    letter: int  # its offset among the dead letters
    pair: Pair
    at: int

    @property
    def log(self) -> Log:
        """The partition that has everything about the tweet."""
        return REACTIONS.name, reactions_partition(self.pair[0])


def overtaken(bootstrap: str, letters: Iterable[Buried]) -> set[int]:
    """The offsets of those letters of the topic that were overtaken; pass it all that are not done with. Raises
    `KafkaUnavailable`."""
    words = list(_words(letters))
    if not words:
        return set()
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, CALL_TIMEOUT_S)
        firsts = log_offsets(admin, [REACTIONS], OffsetSpec.earliest(), CALL_TIMEOUT_S)
        committed = IsolationLevel.READ_COMMITTED
        ends = log_offsets(admin, [REACTIONS], OffsetSpec.latest(), CALL_TIMEOUT_S, committed)
    told = [word for word in words if firsts[word.log] <= word.at < ends[word.log]]
    starts: dict[Log, int] = {}
    for word in told:
        starts[word.log] = min(word.at + 1, starts.get(word.log, word.at + 1))
    last = {word.pair: word.at for word in sorted(words, key=lambda word: word.at)}
    with suppress(PositionLost):  # past its retention in this moment: then nothing can be told
        for pair, at in _read(bootstrap, starts, ends):
            if pair in last:
                last[pair] = max(last[pair], at)
        return {word.letter for word in words} - {word.letter for word in told if last[word.pair] == word.at}
    return {word.letter for word in words}


def _words(letters: Iterable[Buried]) -> Iterator[Word]:
    for letter in letters:
        offset = letter.header(dead_letters.OFFSET)
        if not (offset.isascii() and offset.isdigit() and len(offset) <= OFFSET_DIGITS_MAX):
            offset = "-1"  # nobody can tell
        with suppress(Undecodable):
            reaction = decode_reaction(letter.value)
            yield Word(letter.offset, (reaction.tweet_id, reaction.user_id), int(offset))


def _read(bootstrap: str, starts: Mapping[Log, int], ends: Mapping[Log, int]) -> Iterator[tuple[Pair, int]]:
    """What the log says of each pair, from these offsets to those."""
    open_ = {log for log, start in starts.items() if start < ends[log]}
    if not open_:
        return
    with closing(LogReader(bootstrap, {log: starts[log] for log in open_})) as reader:
        while open_:
            messages = reader.read(READ_WITHIN_S)
            if not messages:
                raise KafkaUnavailable(f"Kafka at {bootstrap} did not hand over {REACTIONS.name} in time: try again")
            for message in messages:
                if message.next_offset >= ends[message.log]:
                    open_.discard(message.log)
                if message.value is not None:
                    with suppress(Undecodable):
                        reaction = decode_reaction(message.value)
                        yield (reaction.tweet_id, reaction.user_id), message.offset
