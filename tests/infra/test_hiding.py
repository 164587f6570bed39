"""Secrets are cut out of texts, and the rest stays."""

import pytest

from infra.hiding import hide_secrets

SECRET = "A-_z" * 10 + "abc"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:hush@h:1/d", "postgresql+psycopg://me:***@h:1/d"),
        ("a1=redis://:hush@h:1,a2=redis://u:hush@h:2", "a1=redis://:***@h:1,a2=redis://u:***@h:2"),
        ("redis://h:1", "redis://h:1"),
        ("http://localhost:8400/v1/x:batch, then a@b", "http://localhost:8400/v1/x:batch, then a@b"),
        (f"Bearer ff_7_{SECRET}", "Bearer ff_7_***"),
        ("ff_7_short", "ff_7_short"),
    ],
)
def test_a_secret_is_replaced_and_its_surroundings_stay(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown
