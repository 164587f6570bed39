"""Dead letters of a group: what its handler cannot process, and what nobody can read, goes to `<topic>.<group>.dlq`.

The headers are Kafka Connect's, as everywhere (infra/dead_letters.py); the connector is the group.
"""

from typing import Any

import structlog

from infra.dead_letters import DeadLetter, DeadLetters, Stage, brief
from infra.errors import Undecodable
from infra.topics import create_dead_letters, dead_letters_of

READER = "consumers.tweet_stream.TweetStream"

log = structlog.get_logger()


class GroupLetters:
    """Buries for one group. The topic is made with the first letter. Raises `KafkaUnavailable`: bury it again then,
    which doubles it at worst."""

    def __init__(self, bootstrap: str, topic: str, group: str) -> None:
        self.topic = dead_letters_of(topic, group)
        self._bootstrap = bootstrap
        self._group = group
        self._letters = DeadLetters(bootstrap)
        self._made = False

    def bury_unreadable(self, message: Any, reason: Undecodable) -> None:
        """A message that is no event; returns when the broker has it."""
        self._bury(message, reason, Stage.DECODE, READER)

    def bury_failed(self, message: Any, reason: Exception, executing_class: str) -> None:
        """A message whose event could not be handled; returns when the broker has it."""
        self._bury(message, reason, Stage.HANDLE, executing_class)

    def _bury(self, message: Any, reason: Exception, stage: Stage, executing_class: str) -> None:
        if not self._made:
            create_dead_letters(self._bootstrap, self.topic)
            self._made = True
        letter = DeadLetter(
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            timestamp_ms=message.timestamp()[1],
            key=message.key(),
            value=message.value(),
            headers=list(message.headers() or ()),
            agent=self._group,
            stage=stage,
            executing_class=executing_class,
            reason=reason,
            buried_in=self.topic,
        )
        self._letters.send([letter])
        log.error("dead letter sent", topic=self.topic, message=letter.place, reason=brief(reason))
