"""Whatever the OpenAPI document allows is asked, and what it forbids: every answer is one that the document names."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from infra.composition import Stores
from infra.live_settings import set_live_settings
from infra.tokens import Scope
from producers.publish import NewTweet, Publisher
from tests.http_client import client_of

Operation = schemathesis.APIOperation[Any, Any, Any, Any]

REQUESTS_MAX = 100  # of each operation, both that the document allows and that it forbids
HEALTH = list(HealthCheck)  # hypothesis need not judge how fast requests are made
WITHIN_S = 10.0
DELETES = {"DELETE /v1/tweets/{id}": 1, "DELETE /v1/users/{id}": 2}  # last, since what they delete is needed before
ENDLESS = ("GET /v1/timelines/home/stream", "GET /v1/stream")  # asked by test_streams.py, test_activity_streams.py

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@dataclass(frozen=True, slots=True)
class Api:
    """The document of an API on real stores, a token that may do everything, and what there is."""

    document: schemathesis.BaseSchema
    headers: dict[str, str]
    user_ids: list[int]
    tweet_ids: list[int]
    seen: dict[str, set[int]] = field(default_factory=dict)

    def ask(self, case: schemathesis.Case[Any]) -> None:
        """Every second id becomes one that exists."""
        known = self.tweet_ids if "/tweets/" in case.path else self.user_ids
        for name, value in (case.path_parameters or {}).items():
            if str(value).isdigit() and int(value) % 2:
                case.path_parameters[name] = str(known[int(value) % len(known)])
        response = case.call_and_validate(headers=self.headers, checks=CHECKS)
        self.seen.setdefault(case.operation.label, set()).add(response.status_code)
        assert response.status_code < 500 or response.status_code == 503, response.text


@pytest.fixture
def api(stores: Stores, publisher: Publisher, make_users: Callable[[int], list[int]]) -> Api:
    wanted = set_live_settings(stores.zookeeper, rate_per_token=0, rate_per_address=0, outbox_age_max_s=0)
    deadline = time.monotonic() + WITHIN_S
    while stores.timelines.live != wanted:
        assert time.monotonic() < deadline
    acting, *user_ids = make_users(8)
    tweet_ids = [publisher.post(NewTweet(user_id, "Hello")).id for user_id in user_ids for _ in range(2)]
    client = client_of(stores)
    document = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    return Api(document, client.acting(acting, Scope.ADMIN), user_ids, tweet_ids)


def ask_whatever(api: Api, operation: Operation, mode: GenerationMode) -> None:
    @settings(max_examples=REQUESTS_MAX, deadline=None, derandomize=True, database=None, suppress_health_check=HEALTH)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        api.ask(case)

    ask()


# Hypothesis takes a change of the global random state for its strategies' doing; threads of the API change it too.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_no_answer_is_missing_in_the_document(api: Api) -> None:
    operations = [found.ok() for found in api.document.get_all_operations() if isinstance(found, Ok)]
    operations = [operation for operation in operations if operation.label not in ENDLESS]
    assert len(operations) == 21
    for operation in sorted(operations, key=lambda one: DELETES.get(one.label, 0)):
        ask_whatever(api, operation, GenerationMode.POSITIVE)
        if operation.body or list(operation.iter_parameters()):
            ask_whatever(api, operation, GenerationMode.NEGATIVE)
    assert [label for label, statuses in api.seen.items() if min(statuses) >= 300] == []  # each worked at least once
