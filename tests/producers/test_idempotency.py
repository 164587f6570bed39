"""What a key that comes again is answered."""

import pytest

from infra.errors import KeyReused
from producers.idempotency import NOBODY, Kept, hash_of

KEPT = Kept("k", hash_of("hello"), "the answer")


def test_the_same_request_is_answered_the_same() -> None:
    assert KEPT.answer_to(7, hash_of("hello")) == "the answer"


@pytest.mark.parametrize(
    ("user_id", "who"), [(7, "user 7 sent the idempotency key"), (NOBODY, "somebody sent the idempotency key")]
)
def test_another_request_is_told_whose_key_it_is_unless_it_is_nobodys(user_id: int, who: str) -> None:
    with pytest.raises(KeyReused, match=f"^{who} 'k' before, with another request"):
        KEPT.answer_to(user_id, hash_of("bye"))
