"""The catalogue of metrics: names, units and labels follow the rules, and the page made from it is current."""

import math
import re

import pytest
from prometheus_client import REGISTRY

from infra.metrics import CATALOGUE, LABELS, SERIES_MAX, Kind, Metric
from infra.metrics_table import PAGE, as_markdown

EVERY = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)


@EVERY
def test_a_name_begins_with_fanfold_and_ends_with_its_unit(metric: Metric) -> None:
    assert re.fullmatch(r"fanfold(_[a-z]+)+", metric.name)
    ending = "_total" if metric.kind is Kind.COUNTER else f"_{metric.unit}"
    assert metric.name.endswith(ending)
    assert metric.unit


@EVERY
def test_labels_are_of_the_list_and_their_values_are_few_and_known(metric: Metric) -> None:
    assert metric.labels.keys() <= LABELS.keys()
    for values in metric.labels.values():
        assert len(values) == len(set(values)) > 1
    assert math.prod(len(values) for values in metric.labels.values()) <= SERIES_MAX


@EVERY
def test_a_meaning_says_more_than_the_name_on_one_line(metric: Metric) -> None:
    assert len(metric.meaning.split()) >= 4
    assert "\n" not in metric.meaning
    assert "|" not in metric.meaning


def test_no_label_is_an_id_of_anything() -> None:
    assert not {"user", "author", "tweet", "id", "key", "node", "host", "path", "reason", "error"} & LABELS.keys()


def test_what_is_served_is_what_the_catalogue_has() -> None:
    """Whatever is registered beside the catalogue would be served without a meaning and without bounds."""
    served = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in REGISTRY.collect()
        if family.name.startswith("fanfold")
    }
    assert served == {metric.name for metric in CATALOGUE}
    assert len(served) == len(CATALOGUE)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown(CATALOGUE), "run `make docs`"
