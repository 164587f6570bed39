"""YAML of plain values, as far as docs/asyncapi.yaml needs it: mappings, lists, text, whole numbers, true and false."""

import json
import re
from collections.abc import Iterator, Mapping

# What no reader of YAML takes for something else; all other text is quoted, as JSON, which YAML includes.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def as_yaml(value: Mapping[str, object]) -> str:
    """The document."""
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: object, indent: str) -> Iterator[str]:
    pairs = value.items() if isinstance(value, Mapping) else [(None, one) for one in _list(value)]
    for key, one in pairs:
        head = f"{indent}- " if key is None else f"{indent}{_scalar(key)}: "
        if isinstance(one, Mapping | list | tuple) and one:
            yield head.rstrip()
            yield from _lines(one, indent + "  ")
        else:
            yield head + _scalar(one)


def _list(value: object) -> list[object]:
    assert isinstance(value, list | tuple)
    return list(value)


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
