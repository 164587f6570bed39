"""Every metric in one place, with its meaning. A role serves them under /metrics when it has a port."""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from infra.settings import Settings

# From 1 ms to 10 minutes, each bucket a quarter above the one before: a percentile is exact to within a quarter.
LATENCY_BUCKETS_S = tuple(round(0.001 * 1.25**step, 6) for step in range(61))

DELIVERY_LATENCY = Histogram(
    "fanfold_delivery_latency_seconds",
    "From the publish call to the acknowledgement by all three clusters, one observation a delivered chunk",
    buckets=LATENCY_BUCKETS_S,
)
DELIVERIES = Counter("fanfold_deliveries_total", "Entries that a cluster's Functions answered as taken", ["cluster"])
OUT_OF_ORDER = Counter("fanfold_out_of_order_total", "Entries that were not the newest of their timeline")
BATCH_EVENTS = Histogram(
    "fanfold_batch_events", "Messages in one batch of an agent", ["agent"], buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
DEAD_LETTERS = Counter("fanfold_dead_letters_total", "Messages that went to the dead letters", ["topic"])
FENCED = Counter("fanfold_fenced_total", "Writes of an agent that a node or a broker refused", ["agent"])
INDEX_LOOKUPS = Counter(
    "fanfold_follower_index_lookups_total", "Authors looked up in the follower index: hit or miss", ["result"]
)
INDEX_BYTES = Gauge("fanfold_follower_index_bytes", "What the follower index of this process takes")
INDEX_AUTHORS = Gauge("fanfold_follower_index_authors", "Authors whose followers this process holds")
INDEX_EVICTIONS = Counter("fanfold_follower_index_evictions_total", "Authors dropped from the index to stay in bounds")
INDEX_LOAD_SECONDS = Histogram(
    "fanfold_follower_index_load_seconds", "One query for misses, with packing what it found", buckets=LATENCY_BUCKETS_S
)
INDEX_ROWS = Counter("fanfold_follower_index_rows_total", "Follows that were loaded into the index")


def serve_metrics(settings: Settings) -> None:
    """Serves /metrics on loopback when the settings name a port."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, addr="127.0.0.1")
