"""Stores that break one promise each: the contract fails them, and says which."""

import threading
import unittest
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from machine_memory.backends.simple import SimpleStore
from machine_memory.core.encoding import as_json, decode
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import Change, Claim, Claimed, EncodedData, Grant
from machine_memory.testing import Clock
from machine_memory.testing.contract import LeaseContract, StateContract, StoreContract, TimerContract


class WritesUnderAnyToken(SimpleStore):
    def write(self, change: Change) -> int:
        with self._mutex:
            live_token = self._live_token(self._machines.get(change.id))
            return super().write(replace(change, token=live_token if change.token else None))


class ForgetsThatTimePasses(SimpleStore):
    def _live_token(self, machine: Any) -> str | None:
        return machine.lease.token if machine and machine.lease else None


class LooksBeforeItTakes(SimpleStore):
    """In two steps: two workers that look at the same moment both find nobody."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self._both_looked = threading.Barrier(2)

    def acquire(self, id: str, **how: Any) -> Grant | None:
        if self._live_token(self._machines.get(id)):
            return None
        if threading.current_thread() is not threading.main_thread():
            self._both_looked.wait(30)
        with self._mutex:
            if machine := self._machines.get(id):
                machine.lease = None
            return super().acquire(id, **how)


class ReleasesAnybody(SimpleStore):
    def release(self, id: str, *, token: str | None) -> bool:
        with self._mutex:
            if machine := self._machines.get(id):
                machine.lease = None
            return True


class Resurrects(SimpleStore):
    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        with self._mutex:
            machine = self._machines.get(id)
            if machine and machine.lease and machine.lease.token == token:
                machine.lease.expires_at = self._clock() + ttl
                return True
            return False


class CountsFromOne(SimpleStore):
    """Has no fence that outlives a machine."""

    def _new(self) -> Any:
        machine = super()._new()
        machine.fence = 0
        return machine

    def _next_fence(self, machine: Any) -> int:
        return int(machine.fence) + 1


class IgnoresVersions(SimpleStore):
    def write(self, change: Change) -> int:
        return super().write(replace(change, expected_version=None))


class SortsKeys(SimpleStore):
    def write(self, change: Change) -> int:
        state: Any = decode(change.data)
        return super().write(replace(change, data=EncodedData(as_json(dict(sorted(state.items()))))))


class ClaimsWhatIsHeld(SimpleStore):
    def claim(self, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
        with self._mutex:
            for machine in self._machines.values():
                if not claim.expired and machine.wake_at is not None and machine.wake_at <= self._clock():
                    machine.lease = None
            return super().claim(claim, pending)


def tried(kind: Callable[[Any], SimpleStore], contract: type) -> dict[str, str]:
    """Return what broken promises are told, by the names of the tests."""

    class Case(contract, unittest.TestCase):  # type: ignore[misc]
        def make_memory(self, **options: Any) -> BaseMachineMemory:
            self.clock = Clock()
            return BaseMachineMemory(kind(self.clock), **options)

        def expire(self, memory: BaseMachineMemory, id: str) -> None:
            self.clock.advance(self.brief)

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert result.testsRun
    return {test.id().rpartition(".")[2]: told for test, told in [*result.errors, *result.failures]}


def test_a_sound_store_passes() -> None:
    assert tried(SimpleStore, StoreContract) == {}


@pytest.mark.parametrize(
    ("kind", "contract", "test", "told"),
    [
        (
            WritesUnderAnyToken,
            LeaseContract,
            "test_a_zombies_write_is_refused_after_a_takeover",
            "A zombie wrote under somebody else's lease: write() must compare the token.",
        ),
        (
            ForgetsThatTimePasses,
            LeaseContract,
            "test_a_lease_that_has_run_out_is_taken_over",
            "holder() must not tell of a lease that has run out.",
        ),
        (
            LooksBeforeItTakes,
            LeaseContract,
            "test_of_many_workers_at_once_one_gets_the_lock",
            "workers got the same lock: acquire() must look and take in one step.",
        ),
        (
            ReleasesAnybody,
            LeaseContract,
            "test_a_zombie_cannot_end_anothers_lease",
            "release() returns False where somebody else's lease is live.",
        ),
        (
            Resurrects,
            LeaseContract,
            "test_a_renewal_extends_a_live_lease_alone",
            "renew() must not resurrect a lease that has run out.",
        ),
        (
            CountsFromOne,
            LeaseContract,
            "test_fences_grow",
            "Fences must grow for ever, over releases and removals, too",
        ),
        (
            IgnoresVersions,
            StateContract,
            "test_of_many_writers_that_saw_the_same_one_is_accepted",
            "writers were the first: write() must compare and write in one",
        ),
        (
            SortsKeys,
            StateContract,
            "test_it_comes_back_exactly_as_it_went_in",
            "keep the text of the change as it is.",
        ),
        (
            ClaimsWhatIsHeld,
            TimerContract,
            "test_what_is_due_is_claimed_the_oldest_first",
            "claim() must leave alone what somebody holds",
        ),
    ],
)
def test_a_deficient_store_fails_for_the_right_reason(
    kind: type[SimpleStore], contract: type, test: str, told: str
) -> None:
    assert told in tried(kind, contract).get(test, "It passed.")


def test_who_does_not_say_how_a_memory_is_made_is_told() -> None:
    with pytest.raises(NotImplementedError, match=r"^StoreContract has to define make_memory\(\*\*options\)"):
        StoreContract().make_memory()
