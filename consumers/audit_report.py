"""What an audit found: counts for each cluster, and the first differences in words.

Pure values. Input: the findings of audit_compare.py. Next: audit_commands.py prints them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

DIFFERENCES_SAID_MAX = 10


class State(StrEnum):
    """What a copy of a timeline is."""

    PRESENT = "present"
    ABSENT = "absent"
    REBUILDING = "rebuilding"  # under a rebuild's token: counts as absent, and is looked at again


@dataclass(frozen=True, slots=True)
class Findings:
    """What one look at one copy of one timeline found. The ids are text as the list holds it; a repeated id stands
    once for each time that is too many."""

    state: State
    entries: int = 0
    missing: tuple[str, ...] = ()
    duplicate: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misordered: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether a present timeline is not exact."""
        return bool(self.missing or self.duplicate or self.unexpected or self.misordered)

    def as_in(self, earlier: "Findings") -> "Findings":
        """This look, with only those differences that an earlier look found too."""
        return Findings(
            self.state,
            self.entries,
            _common(self.missing, earlier.missing),
            _common(self.duplicate, earlier.duplicate),
            _common(self.unexpected, earlier.unexpected),
            _common(self.misordered, earlier.misordered),
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """One kind of difference in one copy: the first tweet that shows it, and how many more do."""

    user_id: int
    cluster: str
    kind: str  # a field of Findings, or a State
    tweet: str = ""
    more: int = 0


@dataclass(frozen=True, slots=True)
class TweetFacts:
    """What the database says about a tweet in one user's timeline."""

    author_id: int
    live: bool
    celebrity: bool
    followed: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Timelines and entries that are present, and what is wrong with them; `absent` timelines apart."""

    timelines: int = 0
    entries: int = 0
    missing: int = 0
    duplicate: int = 0
    unexpected: int = 0
    misordered: int = 0
    absent: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Counts)))

    @property
    def wrong(self) -> int:
        """Differences in present timelines."""
        return self.missing + self.duplicate + self.unexpected + self.misordered


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The outcome of one audit. `complete` says whether an absent timeline is a failure."""

    active_users: int
    clusters: Mapping[str, Counts]
    differences: tuple[str, ...]
    complete: bool

    @property
    def total(self) -> Counts:
        """The counts of all clusters together."""
        return sum(self.clusters.values(), Counts())

    @property
    def clean(self) -> bool:
        """Whether the check passed."""
        return self.total.wrong == 0 and not (self.complete and self.total.absent)

    def as_json(self) -> dict[str, object]:
        """The object that `fanfold audit --json` prints."""
        return {
            **asdict(self.total),
            "active_users": self.active_users,
            "clusters": {cluster: asdict(counts) for cluster, counts in self.clusters.items()},
            "differences": list(self.differences),
            "clean": self.clean,
        }


def counts_of(findings: Findings) -> Counts:
    """One copy's findings as counts."""
    if findings.state is not State.PRESENT:
        return Counts(absent=1)
    return Counts(
        timelines=1,
        entries=findings.entries,
        missing=len(findings.missing),
        duplicate=len(findings.duplicate),
        unexpected=len(findings.unexpected),
        misordered=len(findings.misordered),
    )


def differences_of(user_id: int, cluster: str, findings: Findings, complete: bool) -> Sequence[Difference]:
    """One difference for each kind that a copy shows."""
    if findings.state is not State.PRESENT:
        return [Difference(user_id, cluster, findings.state)] if complete else []
    kinds = {kind: getattr(findings, kind) for kind in ("missing", "duplicate", "unexpected", "misordered")}
    return [Difference(user_id, cluster, kind, ids[0], len(ids) - 1) for kind, ids in kinds.items() if ids]


def in_words(difference: Difference, facts: TweetFacts | None) -> str:
    """One sentence; `facts` is None for an id that no tweet has."""
    where = f"user {difference.user_id}, cluster {difference.cluster}"
    if difference.kind == State.ABSENT:
        return f"{where}: the timeline is absent"
    if difference.kind == State.REBUILDING:
        return f"{where}: the timeline is under a rebuild's token"
    tweet = f"tweet {difference.tweet}" + (f" by user {facts.author_id}" if facts else "")
    what = {
        "missing": "is missing",
        "duplicate": "stands there more than once",
        "unexpected": f"must not be there: {_why_not(facts)}",
        "misordered": "stands above a newer one",
    }[difference.kind]
    more = f" (and {difference.more:,} more)" if difference.more else ""
    return f"{where}: {tweet} {what}{more}"


def _why_not(facts: TweetFacts | None) -> str:
    if facts is None:
        return "no tweet has this id"
    if not facts.live:
        return "it is deleted"
    if not facts.followed:
        return "the user does not follow its author"
    if facts.celebrity:
        return "its author is a celebrity"
    return "it is not above the floor"


def _common(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    return left if left == right else tuple((Counter(left) & Counter(right)).elements())
