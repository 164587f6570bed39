"""For those who run the server: is it alive, can it serve, and its metrics."""

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
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

    status: str = "alive"
    reasons: list[str] = []


class Ready(BaseModel):
    """What the server can serve with: the Redis clusters that answer, and the shard map's epoch."""

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


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
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
