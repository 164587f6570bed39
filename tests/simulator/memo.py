"""Values of the shard map that are made once: maps have a thousand slots, and each process decodes the same bytes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose answers are kept by what it was given. For pure ones alone."""
    answers: dict[str, Any] = {}

    def answer(*given: Any, **named: Any) -> Any:
        key = repr((given, named))
        if key not in answers:
            answers[key] = function(*given, **named)
        return answers[key]

    return answer


def remembered_replace() -> Callable[..., Any]:
    """`dataclasses.replace`, which joins the same placement and the same copies once."""
    joined: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    def answer(value: Any, **changes: Any) -> Any:
        if set(changes) != {"copies"}:
            return replace(value, **changes)
        copies = changes["copies"]
        key = id(value), id(copies)
        if key not in joined:
            joined[key] = replace(value, copies=copies), value, copies  # kept, so that their ids stay theirs
        return joined[key][0]

    return answer
