"""Write-through before there is anything to write to."""

from datetime import UTC, datetime
from typing import Any, cast

from infra.errors import ZooKeeperUnavailable
from infra.live_settings import LiveSettings
from infra.tweet_bodies import Body
from infra.write_through import WriteThrough


class NoPlacement:
    """The clusters of a deployment whose coordinator never ran."""

    asked = False

    @property
    def shard_map(self) -> None:
        self.asked = True
        raise ZooKeeperUnavailable("ZooKeeper holds nothing at /placement")


def test_without_a_placement_a_committed_tweet_is_no_error() -> None:
    clusters = NoPlacement()
    write_through = WriteThrough(cast(Any, clusters), cast(Any, LiveSettings()))

    write_through.put([Body(1, 2, "committed", datetime(2026, 11, 25, tzinfo=UTC), None, None)])

    assert clusters.asked
