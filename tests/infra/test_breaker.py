"""What a breaker lets through, by what its probes find."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread

from infra.breaker import AWAY_S, DECIDED_WITHIN_S, PROBE_TIMEOUT_S, Breaker
from tests.clock import Clock


@dataclass
class Node:
    """One that answers its probes or not; they run when the test says so."""

    answers: bool = True
    probes: list[Callable[[], None]] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def breaker(self) -> Breaker:
        return Breaker(lambda: self.answers, self.clock, self.probes.append)

    def run_probe(self) -> None:
        [probe] = self.probes
        self.probes.clear()
        probe()


def away(node: Node) -> Breaker:
    node.answers = False
    breaker = node.breaker()
    breaker.note_failure()
    node.run_probe()
    return breaker


def test_a_node_is_in_doubt_after_one_failure_and_as_before_when_it_answers_the_probe() -> None:
    node = Node()
    breaker = node.breaker()
    assert breaker.answers

    breaker.note_failure()
    assert not breaker.answers
    breaker.note_failure()  # of another caller, at the same time
    node.run_probe()

    assert breaker.answers
    assert breaker.lets_through()
    assert node.probes == []


def test_one_that_does_not_answer_the_probe_is_left_alone_and_then_probed_once() -> None:
    node = Node()
    breaker = away(node)

    node.clock.now_s += AWAY_S - 0.01
    assert not breaker.lets_through()
    breaker.note_failure()
    assert node.probes == []

    node.clock.now_s += 0.02
    assert not breaker.answers
    assert not breaker.answers
    node.answers = True
    node.run_probe()
    assert breaker.lets_through()


def test_whoever_must_call_a_node_in_doubt_waits_for_what_the_probe_finds() -> None:
    let_go, found = Event(), list[bool]()
    breaker = Breaker(lambda: let_go.wait(10))
    breaker.note_failure()
    caller = Thread(target=lambda: found.append(breaker.lets_through()))
    caller.start()
    assert not breaker.answers
    let_go.set()
    caller.join()

    assert found == [True]


def test_a_probe_that_no_thread_can_be_had_for_is_one_without_an_answer() -> None:
    def run(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    clock = Clock()
    breaker = Breaker(lambda: True, clock, run)
    breaker.note_failure()

    assert not breaker.lets_through()
    clock.now_s += AWAY_S
    assert not breaker.lets_through(), "it was tried again"


def test_he_waits_as_long_as_a_probe_takes_that_connects_and_asks() -> None:
    assert 2 * PROBE_TIMEOUT_S < DECIDED_WITHIN_S
