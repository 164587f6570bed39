"""The topics on a real broker: what is there already is kept, and what does not fit is said."""

from dataclasses import replace

import pytest

from infra import topics
from infra.errors import ConfigurationError
from infra.topics import ACTIVITY, DELIVERIES, create_topics
from tests.services import Services


def test_topics_that_are_there_are_left_alone(services: Services) -> None:
    assert create_topics(services.kafka_bootstrap) == []


def test_a_log_with_another_number_of_partitions_is_named_with_both_numbers(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(DELIVERIES, partitions=DELIVERIES.partitions + 3)
    monkeypatch.setattr(topics, "TOPICS", (ACTIVITY, other))

    with pytest.raises(
        ConfigurationError, match=f"deliveries at .* has {DELIVERIES.partitions} partitions.* needs {other.partitions}:"
    ):
        create_topics(services.kafka_bootstrap)
