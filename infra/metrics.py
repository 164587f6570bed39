"""Every metric of every role in one typed catalogue, with its unit, its labels, their values and its meaning.

docs/metrics.md is made from it (`make docs`). A role serves its metrics under /metrics: see health_server.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from infra.bulk_histogram import BulkHistogram
from infra.shard_map import CLUSTERS
from infra.status import Status
from infra.topics import ACTIVITY, REACTIONS, TOPICS

disable_created_metrics()  # type: ignore[no-untyped-call]  # a time stamp beside each counter, which nobody reads

# From 1 ms to 10 minutes, each bucket a quarter above the one before: a percentile is exact to within a quarter.
LATENCY_BUCKETS_S = tuple(round(0.001 * 1.25**step, 6) for step in range(61))
FINE_BUCKETS_S = tuple(round(0.001 * 1.1**step, 6) for step in range(141))  # exact to within a tenth
COUNT_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)

# The labels that there are. Each stands for a set that no user can enlarge; an id is never a label.
LABELS: Mapping[str, str] = {
    "agent": "an agent of the workers",
    "cluster": "a Redis cluster",
    "how": "why a copy was asked",
    "kind": "what it is about",
    "partition": "a partition of the agent's log",
    "result": "how it went",
    "source": "where it came from",
    "topic": "a topic of Kafka",
}
SERIES_MAX = 100  # of one metric in one process

AGENTS = ("fan_out", "deliver")
FOLDED_TOPICS = (ACTIVITY.name, REACTIONS.name)
PARTITIONS = tuple(str(partition) for partition in range(max(topic.partitions for topic in TOPICS)))


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the catalogue: `labels` are the names and all values that each can have."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


CATALOGUE: list[Metric] = []


def _counter(name: str, unit: str, meaning: str, **labels: tuple[str, ...]) -> Counter:
    CATALOGUE.append(Metric(name, Kind.COUNTER, unit, meaning, labels))
    return Counter(name, meaning, list(labels))


def _gauge(name: str, unit: str, meaning: str, **labels: tuple[str, ...]) -> Gauge:
    CATALOGUE.append(Metric(name, Kind.GAUGE, unit, meaning, labels))
    return Gauge(name, meaning, list(labels))


def _histogram(name: str, unit: str, meaning: str, buckets: Sequence[float], **labels: tuple[str, ...]) -> Histogram:
    CATALOGUE.append(Metric(name, Kind.HISTOGRAM, unit, meaning, labels))
    return Histogram(name, meaning, list(labels), buckets=buckets)


def _bulk_histogram(name: str, unit: str, meaning: str, buckets: Sequence[float]) -> BulkHistogram:
    CATALOGUE.append(Metric(name, Kind.HISTOGRAM, unit, meaning))
    return BulkHistogram(name, meaning, buckets)


# Every role.
LIVE_SETTINGS_VERSION = _gauge(
    "fanfold_live_settings_version", "version", "The version of the live settings that this process goes by"
)

# The relay.
OUTBOX_AGE = _gauge(
    "fanfold_outbox_age_seconds", "seconds", "Age of the oldest event not sent yet; 0 when all are sent"
)
OUTBOX_UNSENT = _gauge("fanfold_outbox_unsent_events", "events", "Events not sent yet; counted up to 20,000")
RELAY_BATCH_EVENTS = _histogram(
    "fanfold_relay_batch_events", "events", "Events that the relay sent in one transaction", COUNT_BUCKETS
)
RELAYED = _counter("fanfold_relayed_total", "events", "Events that the relay sent")
STATUS_CHANGES = _counter(
    "fanfold_status_changes_total", "authors", "Steps across the threshold, by the status after it", kind=tuple(Status)
)

# Both agents.
BATCH_EVENTS = _histogram(
    "fanfold_batch_events", "events", "Messages in one batch of an agent", COUNT_BUCKETS[:9], agent=AGENTS
)
LAG_OFFSETS = _gauge(
    "fanfold_lag_offsets",
    "offsets",
    "Offsets from the oldest message not worked off to the end of the log, transaction markers among them; 0 when no "
    "message is left",
    agent=AGENTS,
    partition=PARTITIONS,
)
LAG_SECONDS = _gauge(
    "fanfold_lag_seconds",
    "seconds",
    "Age of the oldest message not worked off; of one that is not fetched yet, how long it is known to wait; 0 when no "
    "message is left",
    agent=AGENTS,
    partition=PARTITIONS,
)
LAG_OF_RETENTION = _gauge(
    "fanfold_lag_of_retention_ratio",
    "ratio",
    "That age by the retention of the log: at 1 messages are lost unread, and the worker refuses to go on",
    agent=AGENTS,
    partition=PARTITIONS,
)
DEAD_LETTERS = _counter(
    "fanfold_dead_letters_total",
    "messages",
    "Messages that went to the dead letters",
    topic=tuple(topic.name for topic in TOPICS),
)
FENCED = _counter("fanfold_fenced_total", "writes", "Writes of an agent that a node or a broker refused", agent=AGENTS)
REFUSED = _counter(
    "fanfold_refused_writes_total",
    "writes",
    "Writes that a Redis node refused for their epoch, incarnation, generation or call number",
    cluster=CLUSTERS,
)
MARKED_DOWN = _counter(
    "fanfold_marked_down_total",
    "nodes",
    "Nodes whose copies this process marked down, since it could not write them",
    cluster=CLUSTERS,
)

FAILED_PROBES = _counter(
    "fanfold_failed_probes_total",
    "probes",
    "Looks at a node that had not answered a call and did not answer the look either; while one is away and asked for, "
    "one to two a second",
    cluster=CLUSTERS,
)

# Repair.
FILLING = _gauge(
    "fanfold_repair_filling_copies",
    "copies",
    "Slots whose copy in a cluster was emptied and is being filled, as the leading coordinator knows them",
    cluster=CLUSTERS,
)
REPAIRED = _counter(
    "fanfold_repaired_users_total", "users", "Users whose timelines repair built in copies that lacked them"
)
COPIED = _counter(
    "fanfold_repair_copied_users_total",
    "users",
    "Users of those whose timelines came from another cluster's copy, and not from the database",
    cluster=CLUSTERS,
)
PROMOTED = _counter(
    "fanfold_repair_promoted_total", "copies", "Copies that were filled and serve again", cluster=CLUSTERS
)
MOVED = _counter(
    "fanfold_moved_slots_total", "slots", "Slots that the leading coordinator gave to another node", cluster=CLUSTERS
)
REPLAYED = _counter("fanfold_replayed_events_total", "events", "Events of activity that replays have sent again.")
REPLAY_WAITS = _counter(
    "fanfold_replay_waits_total", "waits", "Looks at which a replay waited for what it had sent to be applied."
)
REPAIR_WAITS = _counter(
    "fanfold_repair_waits_total", "pauses", "Times that repair paused, since deliveries were behind"
)

# Anti-entropy.
COMPARED = _counter("fanfold_compared_users_total", "users", "Users whose timelines were compared between the copies")
DIFFERENT = _counter(
    "fanfold_different_timelines_total",
    "timelines",
    "Timelines that a copy had otherwise than most, also at a second look: they were rebuilt",
    cluster=CLUSTERS,
)
UNCONFIRMED = _counter(
    "fanfold_different_unconfirmed_total", "timelines", "Timelines that differed once, and not at the second look"
)
LACKING_COPIES = _counter(
    "fanfold_compared_lacking_total",
    "timelines",
    "Times that a serving copy lacked a timeline that another one had, when they were compared",
    cluster=CLUSTERS,
)

# fan_out.
INDEX_LOOKUPS = _counter(
    "fanfold_follower_index_lookups_total",
    "authors",
    "Authors looked up in the follower index",
    result=("hit", "miss"),
)
INDEX_BYTES = _gauge("fanfold_follower_index_bytes", "bytes", "What the follower index of this process takes")
INDEX_AUTHORS = _gauge("fanfold_follower_index_authors", "authors", "Authors whose followers this process holds")
INDEX_EVICTIONS = _counter(
    "fanfold_follower_index_evictions_total", "authors", "Authors dropped from the index to stay in bounds"
)
INDEX_LOAD_SECONDS = _histogram(
    "fanfold_follower_index_load_seconds",
    "seconds",
    "One query for misses, with packing what it found",
    LATENCY_BUCKETS_S,
)
INDEX_ROWS = _counter("fanfold_follower_index_rows_total", "follows", "Follows that were loaded into the index")

# counters.
FOLDED = _counter(
    "fanfold_folded_total",
    "messages",
    "Messages of a log that were folded into the counts of tweets",
    topic=FOLDED_TOPICS,
)
COUNTERS_LAG = _gauge(
    "fanfold_counters_lag_offsets",
    "offsets",
    "Offsets from the oldest message not folded to the end of the log; 0 when no message is left",
    topic=FOLDED_TOPICS,
)
COUNTERS_LAG_OF_RETENTION = _gauge(
    "fanfold_counters_lag_of_retention_ratio",
    "ratio",
    "Age of the oldest message read last, while the log goes on behind it, by the retention of the log",
    topic=FOLDED_TOPICS,
)
FORGOTTEN = _counter(
    "fanfold_counts_forgotten_total",
    "nodes",
    "Times that a node of a cluster forgot its counts, since it had missed a fold or was new",
    cluster=CLUSTERS,
)

# deliver.
DELIVERY_LATENCY = _bulk_histogram(
    "fanfold_delivery_latency_seconds",
    "seconds",
    "From the publish call to the acknowledgement by all three clusters, one observation a delivered chunk",
    FINE_BUCKETS_S,
)
DELIVERIES = _counter(
    "fanfold_deliveries_total", "entries", "Entries that a cluster's Functions answered as taken", cluster=CLUSTERS
)
OUT_OF_ORDER = _counter("fanfold_out_of_order_total", "entries", "Entries that were not the newest of their timeline")

# Readers.
MISSES = _counter(
    "fanfold_misses_total",
    "timelines, bodies or counts",
    "Timelines that no copy held when they were read, and bodies and counts of tweets that no cluster held",
    kind=("home", "user", "body", "counts"),
)
PAGES = _counter(
    "fanfold_pages_total",
    "looks",
    "Looks for the ids of a page, by where they came from: the copies; the database below the floor of the copies, "
    "because a timeline was being rebuilt, or because the reader follows more celebrities than a page merges",
    kind=("home", "user"),
    source=("memory", "below_floor", "rebuilding", "many_celebrities"),
)
READ_HOWS = ("first", "hedge", "failover", "lacking")
READ_CALLS = _counter(
    "fanfold_read_calls_total",
    "calls",
    "Reading calls of a cluster's nodes: the first one for some timelines or bodies; one beside another that is late; "
    "one after another that failed; one for what another copy lacked",
    cluster=CLUSTERS,
    how=READ_HOWS,
)
HEDGES_WON = _counter(
    "fanfold_hedges_won_total", "calls", "Reading calls beside a late one that were answered before it"
)
COALESCED = _counter(
    "fanfold_coalesced_misses_total",
    "timelines, sets or bodies",
    "Misses of what another caller in the same process was filling already, so that this one waited for him",
    kind=("home", "user", "celebrities", "body"),
)
REBUILDS = _counter(
    "fanfold_rebuilds_total",
    "timelines",
    "Timelines that a rebuild was asked for: rebuilt, present already, busy in another process, or given up",
    kind=("home", "user"),
    result=("rebuilt", "present", "busy", "lost"),
)

# Streams of the HTTP API.
STREAMS = _gauge("fanfold_open_streams", "streams", "Streams of live timelines that are open in this process")
STREAM_EVENTS = _counter(
    "fanfold_stream_events_total",
    "events",
    "Events that were given to streams",
    kind=("update", "delete", "reload"),
)
STREAMS_ENDED = _counter(
    "fanfold_streams_ended_total",
    "streams",
    "Streams that ended: the client went, was too slow, its token was refused, or the server stopped",
    result=("gone", "too_slow", "token_refused", "stopping"),
)
ACTIVITY_STREAMS = _gauge(
    "fanfold_open_activity_streams", "streams", "Streams of the activity log that are open in this process"
)
ACTIVITY_STREAM_EVENTS = _counter(
    "fanfold_activity_stream_events_total", "events", "Events that were given to live streams of the activity log"
)
ACTIVITY_STREAM_LAG = _gauge(
    "fanfold_activity_stream_lag_seconds",
    "seconds",
    "The same as fanfold_stream_lag_seconds, of the activity log's streams",
)
STREAM_LAG = _gauge(
    "fanfold_stream_lag_seconds",
    "seconds",
    "Age of what the feed of the streams read last, while it is behind the logs; while Kafka is away, for how long; 0 "
    "when nothing is left",
)
