"""For those who run the server: is it alive, can it serve, and its metrics."""

from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from infra.composition import Stores
from infra.database import reading
from infra.errors import DatabaseUnavailable, ZooKeeperUnavailable
from infra.http_input import OpenStores
from infra.http_problems import documented
from infra.shard_map import CLUSTERS

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "alive", "reasons": []}]})

    status: str = "alive"
    reasons: list[str] = []


class Ready(BaseModel):
    """What the server can serve with: the Redis clusters that answer, and the shard map's epoch."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ready", "reasons": [], "clusters": ["a", "b", "c"], "epoch": 1}]}
    )

    status: str = "ready"
    reasons: list[str] = []
    clusters: list[str]
    epoch: int


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether the process answers; needs no other server and none of its threads."""
    return Alive()


@router.get("/readyz", responses=documented(503))
def readyz(stores: OpenStores) -> Ready:
    """Whether requests can be served: the database, a Redis cluster and the shard map are there."""
    lacking = [] if _database_answers(stores) else ["PostgreSQL does not answer"]
    clusters, epoch = [], 0
    try:
        epoch = stores.clusters.shard_map.epoch
        clusters = _clusters_that_answer(stores)
        lacking += [] if clusters else ["no Redis cluster answers"]
    except ZooKeeperUnavailable:
        lacking.append("the shard map is not known")
    if lacking:
        raise HTTPException(503, "; ".join(lacking))
    return Ready(clusters=clusters, epoch=epoch)


_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": 'fanfold_misses_total{kind="home"} 7.0'}}}
}


@router.get("/metrics", response_class=Response, responses=_METRICS)
def metrics() -> Response:
    """Metrics in Prometheus's format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _database_answers(stores: Stores) -> bool:
    try:
        with reading(stores.engine) as connection:
            connection.execute(sa.text("SELECT 1"))
    except DatabaseUnavailable:
        return False
    return True


def _clusters_that_answer(stores: Stores) -> list[str]:
    """The clusters of which every node answers."""
    shard_map = stores.clusters.shard_map
    nodes = {name: stores.clusters.node(name) for name in shard_map.nodes}
    answers = stores.clusters.at_once(nodes, lambda node: node.command("PING"))
    return [
        cluster
        for cluster in CLUSTERS
        if all(not isinstance(answers[name], Exception) for name in shard_map.nodes_of(cluster))
    ]
