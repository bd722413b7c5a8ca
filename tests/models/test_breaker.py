"""The circuit breaker and the retry budget, by a clock of the tests."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from dynflow.models.breaker import CircuitBreaker, Permit
from dynflow.models.health import forget_all, health_of
from dynflow.models.retry_budget import RetryBudget
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from dynflow.testing import FakeChat
from tests.effort import EFFORT

FAILURES, FIRST, LONGEST = 2, 10.0, 35.0


class Clock:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(FAILURES, FIRST, LONGEST, clock)


def opened(clock: Clock) -> CircuitBreaker:
    made = breaker(clock)
    for _ in range(FAILURES):
        fail(made)
    assert state(made) == "open"
    return made


def state(made: CircuitBreaker) -> str:
    return made.state


def admitted(made: CircuitBreaker) -> Permit:
    permit = made.admit()
    assert permit is not None
    return permit


def fail(made: CircuitBreaker) -> None:
    made.failed(admitted(made))


class Machine(RuleBasedStateMachine):
    """Calls that begin and end in any order, against what is expected of the breaker.

    The expectation is a list of what happened since the last change of state; the calls that count are those that
    began since then.
    """

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = breaker(self.clock)
        self.state = "closed"
        self.failures = 0
        self.cool_down = FIRST
        self.opened = 0.0
        self.counts: set[int] = set()
        """Calls under way, by the identity of their permits, whose end still counts."""
        self.overtaken: set[int] = set()
        """Probes under way that hung so long that another was admitted: only a success of theirs counts."""
        self.probed = 0.0

    def turn(self, state: str) -> None:
        self.state, self.failures = state, 0
        self.counts.clear()
        self.overtaken.clear()

    @rule(target=permits)
    def begin(self) -> object:
        permit = self.breaker.admit()
        waits = self.clock.now < self.opened + self.cool_down
        probing = len(self.counts) == 1 and self.clock.now < self.probed + LONGEST
        refused = self.state == "open" and (waits or probing)
        assert (permit is None) == refused
        if permit is None:
            return multiple()
        assert permit.state == ("closed" if self.state == "closed" else "half_open")
        if self.state == "open":
            self.probed = self.clock.now
            self.overtaken |= self.counts
            self.counts.clear()
        self.counts.add(id(permit))
        return permit

    @rule(permit=consumes(permits))
    def succeed(self, permit: Permit) -> None:
        self.breaker.succeeded(permit)
        if id(permit) in self.counts | self.overtaken:
            self.counts.discard(id(permit))
            self.failures = 0
            if self.state == "open":
                self.cool_down = FIRST
                self.turn("closed")

    @rule(permit=consumes(permits))
    def fail(self, permit: Permit) -> None:
        self.breaker.failed(permit)
        self.overtaken.discard(id(permit))
        if id(permit) in self.counts:
            self.counts.discard(id(permit))
            self.failures += 1
            if self.state == "open":
                self.cool_down = min(2 * self.cool_down, LONGEST)
            elif self.failures < FAILURES:
                return
            self.opened = self.clock.now
            self.turn("open")

    @rule(permit=consumes(permits))
    def cancel(self, permit: Permit) -> None:
        before = (self.breaker.state, self.breaker._failures)
        self.breaker.withdraw(permit)
        assert (self.breaker.state, self.breaker._failures) == before
        self.counts.discard(id(permit))
        self.overtaken.discard(id(permit))

    @rule(seconds=st.sampled_from([0.5, FIRST, LONGEST]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.state == "open")
    @rule()
    def recover(self) -> None:
        """However it came to be open, and whatever hangs: with time, and one call that succeeds, it is closed."""
        self.clock.now += LONGEST
        self.breaker.succeeded(admitted(self.breaker))
        assert self.breaker.state == "closed"
        self.cool_down = FIRST
        self.turn("closed")

    @invariant()
    def stands_where_expected(self) -> None:
        left = max(0.0, self.opened + self.cool_down - self.clock.now) if self.state == "open" else 0.0
        assert self.breaker.seconds_left() == left
        half = "open" if left > 0 else "half_open"
        assert self.breaker.state == ("closed" if self.state == "closed" else half)

    @invariant()
    def at_most_one_probe(self) -> None:
        assert self.state == "closed" or len(self.counts) <= 1


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100 * EFFORT, stateful_step_count=60, deadline=None)


def test_it_opens_only_after_failures_in_a_row() -> None:
    made = breaker(Clock())
    for _ in range(FAILURES - 1):
        fail(made)
    made.succeeded(admitted(made))
    for _ in range(FAILURES - 1):
        fail(made)
    assert state(made) == "closed"
    fail(made)
    assert state(made) == "open"
    assert made.admit() is None


def test_its_cool_down_grows_to_a_bound_and_a_success_resets_it() -> None:
    clock = Clock()
    made = opened(clock)
    for expected in (10.0, 20.0, 35.0, 35.0):
        assert made.seconds_left() == expected
        clock.now += expected
        assert state(made) == "half_open"
        fail(made)
    clock.now += LONGEST
    made.succeeded(admitted(made))
    for _ in range(FAILURES):
        fail(made)
    assert made.seconds_left() == FIRST


def test_a_cancelled_probe_leaves_room_for_another() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += FIRST
    probe = admitted(made)
    assert made.admit() is None
    made.withdraw(probe)
    admitted(made)


def test_a_probe_that_hangs_makes_room_for_another() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += FIRST
    hanging = admitted(made)
    clock.now += LONGEST - 1
    assert made.admit() is None
    clock.now += 1
    probe = admitted(made)
    made.failed(hanging)
    made.withdraw(hanging)
    assert state(made) == "half_open"
    assert made.admit() is None
    made.succeeded(probe)
    assert state(made) == "closed"


def test_a_probe_that_was_slow_may_succeed_after_all() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += FIRST
    slow = admitted(made)
    clock.now += LONGEST
    probe = admitted(made)
    made.succeeded(slow)
    assert state(made) == "closed"
    made.failed(probe)
    assert made._failures == 0


def test_calls_that_began_before_it_opened_come_too_late() -> None:
    clock = Clock()
    made = breaker(clock)
    early = [admitted(made) for _ in range(3 + FAILURES)]
    for _ in range(FAILURES):
        fail(made)
    clock.now += FIRST
    probe = admitted(made)
    made.succeeded(early[0])
    made.failed(early[1])
    made.withdraw(early[2])
    assert state(made) == "half_open"
    assert made.admit() is None
    made.succeeded(probe)
    for permit in early[3:]:
        made.failed(permit)
    assert state(made) == "closed"


def test_threads_get_one_probe_between_them() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += FIRST
    threads = 8
    ready = threading.Barrier(threads)

    def ask(_: int) -> bool:
        ready.wait()
        return made.admit() is not None

    with ThreadPoolExecutor(threads) as pool:
        assert sum(pool.map(ask, range(threads))) == 1


def test_threads_lose_no_failure() -> None:
    made = CircuitBreaker(failures=8 * 500, clock=Clock())

    def work(_: int) -> None:
        for _ in range(500):
            fail(made)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert state(made) == "open"


def test_a_budget_of_retries() -> None:
    budget = RetryBudget(tokens=3)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    for _ in range(9):
        budget.succeeded()
    assert not budget.take()
    budget.succeeded()
    assert budget.take()
    for _ in range(1000):
        budget.succeeded()
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


def entry(**changes: object) -> object:
    given = {"provider": "litellm", "model": "openai/m", "api_base": "http://127.0.0.1:9", "api_key": "k1", **changes}
    return health_of(create(ModelSettings.model_validate(given), "m"))


@pytest.mark.parametrize("change", [{"model": "openai/n"}, {"api_base": "http://127.0.0.1:8"}, {"api_key": "k2"}])
def test_models_are_told_apart_by_what_reaches_them(change: dict[str, str]) -> None:
    assert entry() is entry()
    assert entry(temperature=0.5, retries=1) is entry()
    assert entry(**change) is not entry()
    assert entry(**change) is entry(**change)


def test_no_key_is_kept() -> None:
    from dynflow.models import health

    forget_all()
    entry(api_key="sk-canary", api_base="http://user:sk-canary@127.0.0.1:9")
    assert "sk-canary" not in repr(health._of_services)


def test_a_hosts_model_is_known_as_the_object_that_it_is() -> None:
    from dynflow.models import health

    forget_all()
    one, other = FakeChat(), FakeChat()
    assert health_of(one) is health_of(one)
    assert health_of(one) is not health_of(other)
    assert len(health._of_objects) == 2
    del one
    gc.collect()
    assert len(health._of_objects) == 1
