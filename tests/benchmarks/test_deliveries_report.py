"""What a benchmark prints: medians with their range, and no figure without a clean audit."""

from collections.abc import Sequence

import pytest

from benchmarks.deliveries import refuse_lost_nodes
from benchmarks.deliveries_report import DeliveriesReport, Run
from benchmarks.warm_state import Shape
from consumers.audit_report import AuditResult, Counts
from infra.errors import CheckFailed


def run(deliveries: int, seconds: float, missing: int = 0, copies: int = 3) -> Run:
    counts = {cluster: Counts(timelines=10, entries=100, missing=missing) for cluster in "abc"}
    return Run(deliveries, seconds, copies, 0.05, 100, AuditResult(10, counts, (), complete=True))


def report(backlog: Sequence[Run], limits: dict[str, list[float]]) -> DeliveriesReport:
    return DeliveriesReport(Shape(100, 80, 10), 50, 1, {"backlog": backlog, "live": [run(500, 1.0)]}, limits)


def test_the_top_level_is_the_backlogs_median_beside_the_limits_median() -> None:
    limits = {"limit": [100.0, 200.0, 300.0], "blind_limit": [400.0]}

    found = report([run(1_000, 10.0), run(1_000, 2.0), run(1_000, 4.0)], limits).as_json()

    assert (found["deliveries_per_s"], found["deliveries_per_s_min"], found["deliveries_per_s_max"]) == (250, 100, 500)
    assert (found["limit_per_s"], found["blind_limit_per_s"], found["ratio"]) == (200, 400, 1.25)
    assert (found["copies"], found["workers"], found["deliveries"]) == (3, 1, 3_000)
    assert (found["entries_per_append"], found["live"]["entries_per_append"]) == (30.0, 15.0)
    assert found["live"]["deliveries_per_s"] == 500
    assert found["audit"]["timelines"] == 90


@pytest.mark.parametrize("form", ["backlog", "live"])
def test_a_form_whose_audit_is_not_clean_has_no_figure(form: str) -> None:
    runs = {"backlog": [run(1_000, 1.0)], "live": [run(1_000, 1.0)]}
    runs[form].append(run(1_000, 1.0, missing=1))

    made = DeliveriesReport(Shape(100, 80, 10), 50, 1, runs, {"limit": [100.0]})

    assert not made.clean
    assert made.as_json()[form]["deliveries_per_s"] is None
    assert made.as_json()[form]["ratio"] is None
    assert made.as_json()[form]["audit"]["missing"] == 3


def test_the_worst_run_says_in_how_many_clusters_all_was_acknowledged() -> None:
    assert report([run(1, 1.0), run(1, 1.0, copies=2)], {"limit": [1.0]}).as_json()["copies"] == 2


def test_without_limits_there_is_a_rate_and_no_ratio() -> None:
    found = report([run(1_000, 4.0)], {}).as_json()

    assert (found["deliveries_per_s"], found["ratio"], found["limits"]) == (250, None, {})


def test_a_run_in_which_a_node_lost_what_it_counted_has_no_figure() -> None:
    held = {"a1": "first", "b1": "second"}
    refuse_lost_nodes(held, held | {"c1": "joined"})

    for now in ({"a1": "first"}, {"a1": "first", "b1": "third"}):
        with pytest.raises(CheckFailed, match="node b1 was marked down during the run, so there is no figure"):
            refuse_lost_nodes(held, now)
