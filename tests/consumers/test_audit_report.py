"""What an audit says: counts, verdict and sentences."""

import json

import pytest

from consumers.audit_report import (
    AuditResult,
    Counts,
    Difference,
    Findings,
    State,
    TweetFacts,
    counts_of,
    differences_of,
    in_words,
)

FOLLOWED = TweetFacts(author_id=7, live=True, celebrity=False, followed=True)


@pytest.mark.parametrize(
    ("difference", "facts", "sentence"),
    [
        (Difference(42, "b", "missing", "123"), FOLLOWED, "user 42, cluster b: tweet 123 by user 7 is missing"),
        (
            Difference(42, "b", "missing", "123", more=1_200),
            FOLLOWED,
            "user 42, cluster b: tweet 123 by user 7 is missing (and 1,200 more)",
        ),
        (
            Difference(42, "a", "duplicate", "123"),
            FOLLOWED,
            "user 42, cluster a: tweet 123 by user 7 stands there more than once",
        ),
        (
            Difference(42, "c", "misordered", "123"),
            FOLLOWED,
            "user 42, cluster c: tweet 123 by user 7 stands above a newer one",
        ),
        (
            Difference(42, "c", "unexpected", "x"),
            None,
            "user 42, cluster c: tweet x must not be there: no tweet has this id",
        ),
        (Difference(42, "c", State.ABSENT), None, "user 42, cluster c: the timeline is absent"),
        (Difference(42, "c", State.REBUILDING), None, "user 42, cluster c: the timeline is under a rebuild's token"),
    ],
)
def test_a_difference_is_one_sentence(difference: Difference, facts: TweetFacts | None, sentence: str) -> None:
    assert in_words(difference, facts) == sentence


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (TweetFacts(7, live=False, celebrity=False, followed=True), "it is deleted"),
        (TweetFacts(7, live=True, celebrity=False, followed=False), "the user does not follow its author"),
        (TweetFacts(7, live=True, celebrity=True, followed=True), "its author is a celebrity"),
        (FOLLOWED, "it is not above the floor"),
    ],
)
def test_an_unexpected_entry_is_explained(facts: TweetFacts, reason: str) -> None:
    sentence = in_words(Difference(42, "a", "unexpected", "123"), facts)
    assert sentence == f"user 42, cluster a: tweet 123 by user 7 must not be there: {reason}"


def test_a_difference_counts_only_when_every_look_found_it() -> None:
    earlier = Findings(State.PRESENT, 3, missing=("1", "2"), duplicate=("5", "5"), unexpected=("9",))
    later = Findings(State.PRESENT, 4, missing=("2", "3"), duplicate=("5",), misordered=("4",))
    assert later.as_in(earlier) == Findings(State.PRESENT, 4, missing=("2",), duplicate=("5",))


def test_an_absent_timeline_differs_only_when_completeness_is_asked_for() -> None:
    assert counts_of(Findings(State.REBUILDING)) == Counts(absent=1)
    assert not differences_of(42, "a", Findings(State.ABSENT), complete=False)
    assert differences_of(42, "a", Findings(State.ABSENT), complete=True) == [Difference(42, "a", "absent")]
    clusters = {"a": Counts(timelines=1, entries=5), "b": Counts(absent=1)}
    assert AuditResult(1, clusters, (), complete=False).clean
    assert not AuditResult(1, clusters, (), complete=True).clean


@pytest.mark.parametrize("kind", ["missing", "duplicate", "unexpected", "misordered"])
def test_any_wrong_entry_fails_the_audit(kind: str) -> None:
    counts = counts_of(Findings(State.PRESENT, 5, **{kind: ("1",)}))
    assert getattr(counts, kind) == 1
    assert not AuditResult(1, {"a": Counts(timelines=1), "b": counts}, (), complete=False).clean


def test_the_object_holds_totals_clusters_and_the_verdict() -> None:
    one = Counts(timelines=2, entries=10, missing=1)
    found = json.loads(json.dumps(AuditResult(2, {"a": one, "b": one}, ("a sentence",), complete=True).as_json()))
    assert found == {
        "timelines": 4,
        "entries": 20,
        "missing": 2,
        "duplicate": 0,
        "unexpected": 0,
        "misordered": 0,
        "absent": 0,
        "active_users": 2,
        "clusters": {
            cluster: {
                "timelines": 2,
                "entries": 10,
                "missing": 1,
                "duplicate": 0,
                "unexpected": 0,
                "misordered": 0,
                "absent": 0,
            }
            for cluster in ("a", "b")
        },
        "differences": ["a sentence"],
        "clean": False,
    }
