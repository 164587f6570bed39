"""docs/metrics.md from the catalogue: `make docs` writes it, and a test compares."""

import sys
from collections.abc import Sequence
from pathlib import Path

from infra.metrics import CATALOGUE, LABELS, Metric

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

HEAD = """# Metrics

Made from [infra/metrics.py](../infra/metrics.py) by `make docs`. Every role serves its own under `/metrics` in
Prometheus's format: the api on its port, every other role on its metrics port, which `fanfold status` names. No label
has a value that a user could make up.
"""


def as_markdown(catalogue: Sequence[Metric]) -> str:
    """The whole page."""
    rows = [f"| `{one.name}` | {one.kind} | {one.unit} | {_labels(one)} | {one.meaning} |" for one in catalogue]
    labels = [f"| `{name}` | {meaning} |" for name, meaning in LABELS.items()]
    lines = [
        HEAD,
        "| name | kind | unit | labels | meaning |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "| label | stands for |",
        "|---|---|",
        *labels,
    ]
    return "\n".join(lines) + "\n"


def _labels(metric: Metric) -> str:
    return "<br>".join(f"`{name}`: {_values(values)}" for name, values in metric.labels.items())


def _values(values: Sequence[str]) -> str:
    return f"{values[0]} to {values[-1]}" if len(values) > 4 else ", ".join(values)


def main() -> int:
    """Writes the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(as_markdown(CATALOGUE), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
