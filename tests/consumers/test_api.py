"""Cursors and links of the reading routes, without servers."""

import pytest
from starlette.datastructures import URL

from consumers.api import link_header
from tests.http_client import Client, client_without_servers, problem_of

HOME = "/v1/timelines/home"
PATHS = [HOME, "/v1/users/1/timeline", "/v1/users/1/followers", "/v1/users/1/following"]


@pytest.fixture
def client() -> Client:
    return client_without_servers()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit is '0'"),
        ("limit=41", "limit is '41'"),
        ("limit=-1", "limit is '-1'"),
        ("limit=many", "limit is 'many'"),
        ("limit=", "limit is ''"),
        ("max_id=-1", "max_id is '-1'"),
        ("since_id=abc", "since_id is 'abc'"),
        ("min_id=9223372036854775808", "min_id is '9223372036854775808'"),
        ("max_id=", "max_id is ''"),
    ],
)
def test_a_cursor_that_is_none_is_refused_and_named(client: Client, path: str, query: str, named: str) -> None:
    assert problem_of(client.get(f"{path}?{query}", headers=client.acting(1)), 422).startswith(named)


@pytest.mark.parametrize("path", ["/v1/users/abc", "/v1/users/0/followers", "/v1/tweets/-1", "/v1/tweets/" + "9" * 30])
def test_an_id_in_the_path_that_is_none_is_refused(client: Client, path: str) -> None:
    assert problem_of(client.get(path), 422).startswith("id is '")


@pytest.mark.parametrize(
    ("url", "next_min_id", "next_max_id", "header"),
    [
        ("http://h/t", None, None, ""),
        ("http://h/t", 9, None, '<http://h/t?min_id=9>; rel="prev"'),
        ("http://h/t", 9, 5, '<http://h/t?max_id=5>; rel="next", <http://h/t?min_id=9>; rel="prev"'),
        ("http://h/t?limit=2&max_id=7&since_id=1", None, 5, '<http://h/t?limit=2&max_id=5>; rel="next"'),
        ("http://h/t?limit=2&min_id=7", 9, None, '<http://h/t?limit=2&min_id=9>; rel="prev"'),
    ],
)
def test_links_keep_the_limit_and_replace_the_cursor(
    url: str, next_min_id: int | None, next_max_id: int | None, header: str
) -> None:
    assert link_header(URL(url), next_min_id, next_max_id) == header
