"""The contract of a memory, run against every backend: what the four operations and the lease promise."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from machine_memory import (
    InvalidConfiguration,
    InvalidData,
    InvalidLease,
    InvalidMachineId,
    InvalidTTL,
    InvalidVersion,
    LockDenied,
    LockLost,
    LockNotHeld,
    Metadata,
    PurgeResult,
    Summary,
    VersionConflict,
)
from machine_memory.core import travel
from machine_memory.core.contexts import OF_A_SHARD, SHARDS, _held
from tests.conftest import Worker, asynchronous, databases, in_thread, redis_servers
from tests.contract.stores import Store

refusing = pytest.mark.parametrize(
    "store", ["simple", *databases("sqlite", forms=("",)), *redis_servers()[:1]], indirect=True
)
"""One of each backend: what is refused before a store is asked is alike for all of its kinds."""
HOSTILE_IDS = [
    "x" * 512,
    "Ärger über naïve Ids",
    "order 42",
    "order-42 ",
    " order-42",
    "line\nbreak\ttab\x1b[31m",
    "x😀",
    "x😁",
    "abc",
    "ABC",
    "cafe",
    "café",
    "cafe\u0301",
    "ss",
    "ß",
    "'; DROP TABLE machines; --",
    "100%_\\",
    '{"json": [1]}',
    "{slot}:*?[a-z]",
    "\u202egnp.exe",
    "None",
    "0",
]


class TestLock:
    def test_a_free_id_locks_for_the_default_ttl(self, store: Store) -> None:
        assert store.memory.lock("a") is True

        (info,) = store.memory.held_locks()
        assert (info.id, info.expires_at - info.locked_at) == ("a", timedelta(seconds=120))

    def test_locking_creates_no_state(self, store: Store) -> None:
        store.memory.lock("a")

        assert store.memory.read("a") is None
        assert store.memory.record("a") is None

    def test_a_second_worker_is_refused_and_changes_nothing(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        before = store.lease_of("a")

        assert worker.lock("a", ttl=1000) is False
        assert store.lease_of("a") == before

    def test_ten_refused_attempts_do_not_extend_the_lease(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a", ttl=60)
        before = store.lease_of("a")

        assert [worker.lock("a") for _ in range(10)] == [False] * 10
        assert store.lease_of("a") == before

    def test_it_is_not_reentrant_and_the_own_lease_stays(self, store: Store) -> None:
        store.memory.lock("a")
        before = store.lease_of("a")

        assert store.memory.lock("a") is False
        assert store.lease_of("a") == before
        assert store.memory.write("a", {"still": "holder"}) == 1

    def test_ids_are_independent(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        before = store.lease_of("a")

        assert worker.lock("b") is True
        worker.write("b", {})
        assert store.lease_of("a") == before

    def test_ten_cycles_each_with_a_refused_attempt(self, store: Store, worker: Worker) -> None:
        for _ in range(10):
            assert store.memory.lock("a") is True
            assert worker.lock("a") is False
            assert store.memory.unlock("a") is True

    def test_a_lease_that_expired_yesterday_is_taken_over(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        store.expire("a", ago=86_400)
        before = store.lease_of("a")

        assert worker.lock("a") is True
        assert before and store.lease_of("a") != before

    def test_where_this_context_has_it_already_the_denial_says_so(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a", ttl=60)
        own = r"This context holds 'a' already, for (60|59\.\d+) s more: a lock is not re-entrant. Go on with the lease"
        with pytest.raises(LockDenied, match=own), store.memory.lease("a"):
            pass
        store.memory.unlock("a")
        worker.lock("a")
        with pytest.raises(LockDenied, match="^Somebody else holds 'a'. Try again later"), store.memory.lease("a"):
            pass

    def test_a_hundred_thousand_that_nobody_unlocks_cost_the_same_each(self, store: Store) -> None:
        # What a context remembers is bounded: by that, and by no clock, it costs the same.
        for number in range(SHARDS * OF_A_SHARD + 500 if store.name == "simple" else 0):
            store.memory.lock(str(number))
        assert sum(map(len, _held.get())) <= SHARDS * OF_A_SHARD
        store.memory.lock("a")
        store.expire("a")
        with pytest.raises(LockLost):
            store.memory.write("a", {})

    def test_the_former_holder_may_lock_again_after_expiry(self, store: Store) -> None:
        store.memory.lock("a")
        store.expire("a")

        assert store.memory.lock("a") is True
        assert store.memory.write("a", {}) == 1

    @pytest.mark.parametrize("ttl", [0.323, 1, 1.5, 86_400, timedelta(minutes=3), timedelta(milliseconds=250)])
    def test_the_lease_lasts_exactly_its_ttl(self, store: Store, ttl: float | timedelta) -> None:
        seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
        with store.frozen():
            store.memory.lock("a", ttl=ttl)
            (info,) = store.memory.held_locks()

        assert (info.expires_at - info.locked_at).total_seconds() == pytest.approx(seconds, abs=0.000_5)

    def test_the_ttl_of_the_memory_is_the_default(self, store: Store) -> None:
        memory = store.new_memory(lock_ttl=7)
        memory.lock("a")

        (info,) = memory.held_locks()
        assert info.expires_at - info.locked_at == timedelta(seconds=7)

    def test_it_changes_neither_state_nor_version(self, store: Store) -> None:
        store.memory.write("a", {"n": 1})
        before = store.memory.record("a")
        store.memory.lock("a")
        after = store.memory.record("a")

        assert before and after
        assert (after.data, after.version, after.written_at) == (before.data, before.version, before.written_at)

    def test_the_owner_describes_host_process_and_thread(self, store: Store) -> None:
        store.memory.lock("a")

        (info,) = store.memory.held_locks()
        host, pid, name = info.owner.split(":")
        assert host and int(pid) and name == threading.current_thread().name

    def test_other_ids_are_free_while_hostile_ones_are_held(self, store: Store, worker: Worker) -> None:
        for id in HOSTILE_IDS:
            assert store.memory.lock(id) is True, id
        for id in HOSTILE_IDS:
            assert worker.lock(id) is False, id
        assert sorted(info.id for info in store.memory.held_locks()) == sorted(HOSTILE_IDS)


class TestUnlock:
    def test_after_it_others_may_lock_at_once(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")

        assert store.memory.unlock("a") is True
        assert worker.lock("a") is True

    def test_of_an_id_that_was_never_locked_is_true_and_creates_nothing(self, store: Store) -> None:
        assert store.memory.unlock("a") is True
        assert store.count() == 0

    def test_twice_is_true(self, store: Store) -> None:
        store.memory.lock("a")

        assert [store.memory.unlock("a"), store.memory.unlock("a")] == [True, True]

    def test_after_the_own_expiry_is_true_while_nobody_came(self, store: Store) -> None:
        store.memory.lock("a")
        store.expire("a")

        assert store.memory.unlock("a") is True

    def test_after_a_takeover_is_false_and_the_new_lease_survives(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        store.expire("a")
        worker.lock("a")
        before = store.lease_of("a")

        assert store.memory.unlock("a") is False
        assert before and store.lease_of("a") == before

    def test_by_somebody_else_is_false_and_leaves_the_lease(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        before = store.lease_of("a")

        assert worker.unlock("a") is False
        assert before and store.lease_of("a") == before

    def test_it_keeps_state_and_version(self, store: Store) -> None:
        store.memory.lock("a")
        store.memory.write("a", {"n": 1})
        store.memory.unlock("a")

        record = store.memory.record("a")
        assert record and (record.data, record.version) == ({"n": 1}, 1)


class TestWrite:
    def test_the_first_one_is_version_one(self, store: Store) -> None:
        assert store.memory.write("a", {"n": 1}) == 1
        assert store.memory.read("a") == {"n": 1}

    def test_each_one_counts_one_more(self, store: Store) -> None:
        assert [store.memory.write("a", {"n": n}) for n in range(5)] == [1, 2, 3, 4, 5]

    def test_it_replaces_the_whole_state(self, store: Store) -> None:
        store.memory.write("a", {"old": 1, "both": 1})
        store.memory.write("a", {"both": 2})

        assert store.memory.read("a") == {"both": 2}

    def test_with_the_expected_version_is_accepted(self, store: Store) -> None:
        assert store.memory.write("a", {}, expected_version=0) == 1
        assert store.memory.write("a", {}, expected_version=1) == 2

    @pytest.mark.parametrize("expected", [0, 1, 3, 10**12])
    def test_with_a_wrong_version_is_a_conflict_and_changes_nothing(self, store: Store, expected: int) -> None:
        store.memory.write("a", {"n": 1})
        store.memory.write("a", {"n": 2})

        with pytest.raises(VersionConflict, match=f"'a' is at version 2, not {expected}. Nothing was changed."):
            store.memory.write("a", {"n": 3}, expected_version=expected)
        record = store.memory.record("a")
        assert record and (record.data, record.version) == ({"n": 2}, 2)

    def test_of_an_absent_machine_with_a_version_is_a_conflict_and_creates_nothing(self, store: Store) -> None:
        with pytest.raises(VersionConflict, match="'a' is at version 0, not 1"):
            store.memory.write("a", {}, expected_version=1)
        assert store.count() == 0

    def test_of_two_creations_one_is_a_conflict(self, store: Store, worker: Worker) -> None:
        assert worker.write("a", {"by": "worker"}, expected_version=0) == 1
        with pytest.raises(VersionConflict):
            store.memory.write("a", {"by": "test"}, expected_version=0)
        assert store.memory.read("a") == {"by": "worker"}

    def test_of_two_updates_from_one_read_one_is_a_conflict(self, store: Store, worker: Worker) -> None:
        store.memory.write("a", {"n": 0})
        worker.write("a", {"n": 1}, expected_version=1)

        with pytest.raises(VersionConflict):
            store.memory.write("a", {"n": 1}, expected_version=1)

    def test_while_somebody_else_holds_the_machine_is_refused(self, store: Store, worker: Worker) -> None:
        store.memory.write("a", {"n": 1})
        worker.lock("a")

        with pytest.raises(LockNotHeld, match="Somebody else holds 'a'. Nothing was changed."):
            store.memory.write("a", {"n": 2})
        assert store.memory.read("a") == {"n": 1}

    def test_of_a_machine_without_state_that_somebody_else_holds_is_refused(self, store: Store, worker: Worker) -> None:
        worker.lock("a")

        with pytest.raises(LockNotHeld):
            store.memory.write("a", {}, expected_version=0)
        assert store.memory.read("a") is None

    def test_without_a_lease_is_accepted_once_the_lease_of_another_is_over(self, store: Store, worker: Worker) -> None:
        worker.lock("a")
        store.expire("a")

        assert store.memory.write("a", {}) == 1

    def test_after_the_own_expiry_is_refused_before_any_takeover(self, store: Store) -> None:
        store.memory.lock("a")
        store.expire("a")

        with pytest.raises(LockLost, match="The lease of 'a' is over"):
            store.memory.write("a", {})
        assert store.memory.read("a") is None

    def test_after_a_takeover_is_refused(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        store.expire("a")
        worker.lock("a")
        worker.write("a", {"by": "worker"})

        with pytest.raises(LockLost):
            store.memory.write("a", {"by": "zombie"})
        assert store.memory.read("a") == {"by": "worker"}

    def test_after_a_takeover_that_is_over_is_still_refused(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        store.expire("a")
        worker.lock("a")
        worker.write("a", {"by": "worker"})
        worker.unlock("a")

        with pytest.raises(LockLost):
            store.memory.write("a", {"by": "zombie"})
        assert store.memory.read("a") == {"by": "worker"}

    def test_a_lost_lease_wins_over_a_version_conflict(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        store.expire("a")
        worker.write("a", {})

        with pytest.raises(LockLost):
            store.memory.write("a", {}, expected_version=0)

    def test_a_lost_lease_is_forgotten_by_unlock(self, store: Store) -> None:
        store.memory.lock("a")
        store.expire("a")
        store.memory.unlock("a")

        assert store.memory.write("a", {}) == 1

    def test_after_unlock_it_needs_no_lease(self, store: Store) -> None:
        store.memory.lock("a")
        store.memory.unlock("a")

        assert store.memory.write("a", {}) == 1

    def test_where_a_lease_is_required_is_refused_without_one(self, store: Store) -> None:
        memory = store.new_memory(require_lease=True)

        with pytest.raises(LockNotHeld, match=r"Writing 'a' needs a lease here \(REQUIRE_LEASE\). Lock it first."):
            memory.write("a", {})
        memory.lock("a")
        assert memory.write("a", {}) == 1

    def test_it_leaves_the_lease_alone(self, store: Store) -> None:
        store.memory.lock("a")
        before = store.lease_of("a")
        store.memory.write("a", {})

        assert before and store.lease_of("a") == before


class TestData:
    def test_what_was_never_written_reads_as_none(self, store: Store) -> None:
        assert store.memory.read("a") is None

    @pytest.mark.parametrize(
        "data",
        [
            {},
            {"nested": {"list": [1, [2, {"three": None}]], "empty": {}, "none": None}},
            {"true": True, "false": False, "zero": 0, "one": 1},
            {"text": "Grüße 😀 \u202e \\ \" ' \n\t\x7f", "Schlüssel 😀": "", "": "empty key"},
            {"large": 2**64, "negative": -(2**70), "digits": 10**4000},
            {"float": 0.1, "tiny": 5e-324, "whole": 1.0, "minus zero": -0.0, "one": 1, "true": True},
            {"exponent": 1e23, "largest": 1.7976931348623157e308, "negative": -1.5e300, "int": 10**23, "text": "1e+23"},
            {"escaped": "\\u0000 is not NUL", "quote": '"1e+5"', "percent": "%s %(x)s {}"},
            {"z": 1, "a": {"later": 1, "b": 2, "10": 3, "9": 4}, "aa": [{"y": 1, "x": 2}], "é": 1, "B": 2},
            {"deep": {"1": {"2": {"3": [[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]}}}},
        ],
        ids=[
            *("empty", "nested", "scalars", "unicode", "integers", "floats", "large floats", "escapes", "order"),
            "30 levels",
        ],
    )
    def test_it_comes_back_as_it_went_in(self, store: Store, data: dict[str, Any]) -> None:
        """To the order of keys, and the type and spelling of each number, whichever way it is read."""
        memory, exactly = store.memory, repr(data)
        memory.write("a", data)
        assert repr(memory.read("a")) == exactly
        with memory.lease("a") as lease:
            assert repr(lease.data) == exactly
            lease.write(lease.data)
            assert repr(lease.data) == exactly
            lease.commit(lease.data)
        record = memory.record("a")
        assert record and repr(record.data) == exactly
        assert repr(memory.read("a")) == exactly

    def test_just_under_the_size_limit_is_stored(self, store: Store) -> None:
        data = {"text": "x" * (2 * 1024 * 1024 - len('{"text":""}'))}
        store.memory.write("a", data)

        assert store.memory.read("a") == data

    def test_what_the_caller_changes_later_is_not_stored(self, store: Store) -> None:
        data: dict[str, Any] = {"list": [1]}
        store.memory.write("a", data)
        data["list"].append(2)

        assert store.memory.read("a") == {"list": [1]}

    def test_what_is_changed_in_a_read_state_is_not_stored(self, store: Store) -> None:
        store.memory.write("a", {"list": [1]})
        first = store.memory.read("a")
        assert first
        first["list"].append(2)

        assert store.memory.read("a") == {"list": [1]}

    def test_hostile_ids_keep_their_own_state(self, store: Store) -> None:
        for number, id in enumerate(HOSTILE_IDS):
            store.memory.write(id, {"number": number})

        assert [store.memory.read(id) for id in HOSTILE_IDS] == [{"number": n} for n in range(len(HOSTILE_IDS))]


class TestLease:
    def test_it_hands_over_the_state_with_the_lock(self, store: Store) -> None:
        store.memory.write("a", {"n": 1})

        with store.memory.lease("a") as lease:
            assert (lease.id, lease.data, lease.version, lease.ttl) == ("a", {"n": 1}, 1, 120)

    def test_of_a_machine_without_state_has_none_and_version_zero(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            assert (lease.data, lease.version) == (None, 0)

    def test_it_is_released_when_the_block_ends(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a"):
            assert worker.lock("a") is False
        assert worker.lock("a") is True

    def test_it_is_released_when_the_block_fails_and_the_error_is_seen(self, store: Store, worker: Worker) -> None:
        with pytest.raises(ZeroDivisionError), store.memory.lease("a"):
            1 / 0  # noqa: B018
        assert worker.lock("a") is True

    def test_the_error_of_the_block_is_seen_also_when_the_release_is_too_late(
        self, store: Store, worker: Worker
    ) -> None:
        with pytest.raises(ZeroDivisionError), store.memory.lease("a"):
            store.expire("a")
            worker.lock("a")
            1 / 0  # noqa: B018
        assert store.memory.lock("a") is False

    def test_it_is_denied_while_somebody_else_holds_the_machine(self, store: Store, worker: Worker) -> None:
        worker.lock("a")

        with pytest.raises(LockDenied, match="Somebody else holds 'a'"), store.memory.lease("a"):
            pass

    def test_commit_writes_and_releases(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            assert lease.commit({"n": 1}) == 1
            assert worker.lock("a") is True
        assert store.memory.read("a") == {"n": 1}
        assert worker.write("a", {"n": 2}) == 2

    def test_write_keeps_it_and_shows_the_new_state(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            assert lease.write({"n": 1}) == 1
            assert (lease.version, lease.data) == (1, {"n": 1})
            assert worker.lock("a") is False
            assert lease.write({"n": 2}) == 2

    def test_its_data_is_the_callers_to_change(self, store: Store) -> None:
        store.memory.write("a", {"list": []})
        with store.memory.lease("a") as lease:
            lease.data["list"].append(1)
            assert store.memory.read("a") == {"list": []}
            lease.commit(lease.data)
        assert store.memory.read("a") == {"list": [1]}

    def test_after_commit_it_is_over(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            lease.commit({})
            with pytest.raises(LockLost, match="The lease of 'a' was committed"):
                lease.write({})
            with pytest.raises(LockLost, match="was committed"):
                lease.renew()
            assert lease.release() is True

    def test_after_release_it_is_over(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            assert lease.release() is True
            with pytest.raises(LockLost, match="The lease of 'a' was released"):
                lease.commit({})

    def test_a_lost_one_can_neither_write_nor_commit_nor_renew(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            store.expire("a")
            worker.lock("a")
            before = store.lease_of("a")
            calls: list[Callable[[], Any]] = [lambda: lease.write({}), lambda: lease.commit({}), lease.renew]
            for call in calls:
                with pytest.raises(LockLost):
                    call()
            assert lease.release() is False
        assert before and store.lease_of("a") == before
        assert store.memory.read("a") is None

    def test_it_checks_the_version_that_it_has_seen(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            lease._change(replace(lease._standing, version=7))
            with pytest.raises(VersionConflict):
                lease.commit({})
            assert store.lease_of("a")

    def test_the_four_operations_act_under_it(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            assert store.memory.write("a", {"n": 1}) == 1
            assert store.memory.read("a") == {"n": 1}
            assert store.memory.lock("a") is False
            assert lease.commit({"n": 2}) == 2
        with store.memory.lease("a") as lease:
            assert store.memory.unlock("a") is True
            with pytest.raises(LockLost):
                lease.write({})
            assert worker.lock("a") is True

    def test_the_end_of_a_block_spares_a_lease_that_was_taken_within(self, store: Store) -> None:
        with store.memory.lease("a"):
            store.expire("a")
            assert store.memory.lock("a") is True
        assert store.lease_of("a")
        assert store.memory.write("a", {}) == 1

    def test_the_time_that_remains_is_conservative_and_never_negative(self, store: Store) -> None:
        with store.memory.lease("a", ttl=60) as lease:
            assert 59 < lease.remaining <= 60
        with store.memory.lease("a") as lease:
            lease.renew(0.2)
            threading.Event().wait(0.21)
            store.passed(0.21)
            assert lease.remaining == 0

    def test_its_fence_and_owner_are_those_that_others_see(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            (info,) = store.memory.held_locks()
            assert (lease.fence, lease.owner) == (info.fence, info.owner)

    def test_it_does_not_tell_its_token(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            stored = store.lease_of("a")
            assert stored and stored[0] not in repr(lease)
            assert repr(lease).startswith(f"<Lease of 'a', fence {lease.fence}, ")

    def test_it_waits_for_its_turn(self, store: Store) -> None:
        locked, done = threading.Event(), threading.Event()

        def hold() -> None:
            with store.memory.lease("a"):
                locked.set()
                done.wait(5)

        with in_thread(hold):
            locked.wait(5)
            threading.Timer(0.05, done.set).start()
            with store.memory.lease("a", wait=5, ttl=60) as lease:
                assert lease.remaining > 59

    def test_it_waits_no_longer_than_asked_and_no_less(self, store: Store, worker: Worker) -> None:
        worker.lock("a")
        for wait in (0.05, 0.2):
            started = time.monotonic()
            with pytest.raises(LockDenied), store.memory.lease("a", wait=wait):
                pass
            assert time.monotonic() - started >= wait

    def test_handed_to_another_thread_it_works_there(self, store: Store) -> None:
        with store.memory.lease("a") as lease, in_thread(lambda: lease.write({"by": "thread"})) as thread:
            assert thread.result() == 1
        assert store.memory.read("a") == {"by": "thread"}


class TestRenew:
    def test_it_extends_a_live_lease_under_the_same_token(self, store: Store) -> None:
        with store.memory.lease("a", ttl=60) as lease:
            before = store.lease_of("a")
            lease.renew(600)
            after = store.lease_of("a")

            assert before and after
            assert after[0] == before[0]
            assert after[1] >= before[1] + 539
            assert (lease.ttl, lease.remaining > 599) == (600, True)

    def test_its_own_ttl_is_the_default(self, store: Store) -> None:
        with store.memory.lease("a", ttl=600) as lease:
            lease.renew()
            assert lease.ttl == 600

    def test_it_works_again_and_again(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            for ttl in (5, 600, timedelta(seconds=30)):
                lease.renew(ttl)
            assert 29 < lease.remaining <= 30

    def test_after_expiry_is_refused_and_does_not_resurrect(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            store.expire("a")
            with pytest.raises(LockLost):
                lease.renew()
            assert worker.lock("a") is True

    def test_after_a_takeover_is_refused_and_leaves_the_new_lease(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            store.expire("a")
            worker.lock("a")
            before = store.lease_of("a")
            with pytest.raises(LockLost):
                lease.renew()
            assert before and store.lease_of("a") == before

    def test_in_the_background_it_outlives_its_ttl(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a", ttl=3, keep_alive=True) as lease:
            before = store.lease_of("a")
            store.wait_until(lambda: before and (store.lease_of("a") or before)[1] > before[1])
            assert lease.remaining
            assert worker.lock("a") is False
            lease.commit({})

    def test_that_fails_in_the_background_loses_the_lease(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        with store.memory.lease("a", keep_alive=True) as lease:
            lease.renew(0.3)
            store.memory.force_unlock("a")
            store.wait_until(lambda: lease._over)
            with pytest.raises(LockLost, match=r"The lease of 'a' could not be kept alive \(LockLost\)"):
                lease.commit({})
            with pytest.raises(LockLost, match="could not be kept alive"):
                store.memory.write("a", {})
        assert "lost the lease of a machine: it could not be kept alive (LockLost)" in caplog.text


class TestFence:
    def test_it_grows_with_each_lease(self, store: Store, worker: Worker) -> None:
        fences = []
        for _ in range(3):
            with store.memory.lease("a") as lease:
                fences.append(lease.fence)
        assert fences == sorted(set(fences))

    def test_it_grows_across_expiry_force_unlock_and_cleanup(self, store: Store, worker: Worker) -> None:
        fences = []

        def lock(worker: Any) -> None:
            assert worker.lock("a") is True
            (info,) = store.memory.held_locks()
            fences.append(info.fence)

        lock(store.memory)
        store.expire("a")
        lock(worker)
        store.memory.force_unlock("a")
        lock(store.memory)
        store.memory.cleanup("a")
        lock(worker)
        worker.unlock("a")
        worker.cleanup("a")
        lock(worker)
        assert fences == sorted(set(fences))

    def test_it_is_never_behind_the_clock(self, store: Store) -> None:
        """So it grows also where a copy that lacks the latest leases has taken over."""

        def microseconds() -> int:
            store.passed(0.001)
            return int(store.now() * 1_000_000)

        store.memory.write("a", {})
        for _ in range(2):
            before = microseconds()
            with store.memory.lease("a") as lease:
                assert lease.fence >= before
        store.memory.lock("a")
        before = microseconds()
        store.memory.force_unlock("a")
        record = store.memory.record("a")
        assert record and record.fence >= before

    def test_neither_writing_nor_a_refusal_moves_it(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            worker.lock("a")
            lease.commit({})
        record = store.memory.record("a")
        assert record and record.fence == lease.fence


class TestForceUnlock:
    def test_it_ends_anybodys_lease(self, store: Store, worker: Worker) -> None:
        worker.lock("a")

        assert store.memory.force_unlock("a") is True
        assert store.memory.lock("a") is True

    def test_the_evicted_holder_is_refused(self, store: Store, worker: Worker) -> None:
        worker.lock("a")
        store.memory.force_unlock("a")

        with pytest.raises(LockLost):
            worker.write("a", {})
        assert store.memory.read("a") is None

    def test_it_advances_the_fence(self, store: Store, worker: Worker) -> None:
        worker.lock("a")
        worker.write("a", {})
        before = store.memory.record("a")
        store.memory.force_unlock("a")
        after = store.memory.record("a")

        assert before and after and after.fence > before.fence

    def test_it_may_be_for_one_lease_alone(self, store: Store, worker: Worker) -> None:
        worker.lock("a")
        (info,) = store.memory.held_locks()

        assert store.memory.force_unlock("a", fence=info.fence - 1) is False
        assert worker.write("a", {}) == 1
        assert store.memory.force_unlock("a", fence=info.fence) is True
        with pytest.raises(LockLost):
            worker.write("a", {})

    @pytest.mark.parametrize("fence", ["x", "1", 1.5, True, -1, 2**63])
    def test_a_fence_that_is_none_is_refused(self, store: Store, fence: Any) -> None:
        with (
            store.untouched(),
            pytest.raises(InvalidVersion, match="^fence must be an int from 0, that of a lease, not"),
        ):
            store.memory.force_unlock("a", fence=fence)

    def test_where_nobody_holds_the_machine_is_false(self, store: Store) -> None:
        store.memory.write("a", {})

        assert store.memory.force_unlock("a") is False
        assert store.memory.force_unlock("absent") is False


class TestCleanup:
    def test_it_removes_state_and_lease(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            lease.write({"n": 1})
            assert store.memory.cleanup("a") is True
            assert store.memory.read("a") is None
            with pytest.raises(LockLost, match="was cleaned up"):
                lease.write({})
        assert store.count() == 0
        assert worker.lock("a") is True

    def test_without_a_lease_it_works_where_nobody_has_one(self, store: Store) -> None:
        store.memory.write("a", {})

        assert store.memory.cleanup("a") is True
        assert store.count() == 0

    def test_of_an_absent_machine_and_twice_is_true(self, store: Store) -> None:
        assert [store.memory.cleanup("a"), store.memory.cleanup("a")] == [True, True]

    def test_under_somebody_elses_lease_is_refused(self, store: Store, worker: Worker) -> None:
        store.memory.write("a", {"n": 1})
        worker.lock("a")
        before = store.lease_of("a")

        with pytest.raises(LockNotHeld):
            store.memory.cleanup("a")
        assert store.memory.read("a") == {"n": 1}
        assert before and store.lease_of("a") == before

    def test_by_a_worker_that_lost_its_lease_is_refused(self, store: Store, worker: Worker) -> None:
        store.memory.lock("a")
        store.expire("a")
        worker.lock("a")
        worker.write("a", {"n": 1})
        worker.unlock("a")

        with pytest.raises(LockLost):
            store.memory.cleanup("a")
        assert store.memory.read("a") == {"n": 1}

    def test_other_machines_of_the_tree_stay(self, store: Store) -> None:
        store.memory.write("a", {})
        store.memory.write("b", {}, metadata=Metadata(parent="a"))
        store.memory.write("c", {}, metadata=Metadata(parent="b"))
        store.memory.cleanup("b")

        assert store.memory.tree("a") == ["a", "c"]

    def test_the_next_state_starts_anew(self, store: Store) -> None:
        store.memory.write("a", {"n": 1}, metadata=Metadata(status="done", parent="p"))
        store.memory.cleanup("a")

        assert store.memory.write("a", {"n": 2}, expected_version=0) == 1
        record = store.memory.record("a")
        assert record and (record.status, record.parent, record.root) == (None, None, "a")


class TestHolder:
    def test_it_is_whoever_has_the_live_lease(self, store: Store, worker: Worker) -> None:
        assert store.memory.holder("a") is None
        worker.lock("a", ttl=60)
        (info,) = store.memory.held_locks()
        assert store.memory.holder("a") == info
        assert async_to_sync(store.memory.aholder)("a") == info
        assert store.memory.holder("b") is None
        store.expire("a")
        assert store.memory.holder("a") is None


class TestHeldLocks:
    def test_they_are_the_live_leases_alone(self, store: Store) -> None:
        for id in "abc":
            store.memory.lock(id, ttl=10 if id == "a" else 600)
        store.expire("a")
        store.memory.unlock("b")
        store.memory.write("d", {})

        assert [info.id for info in store.memory.held_locks()] == ["c"]

    def test_times_are_in_utc_by_the_stores_clock(self, store: Store) -> None:
        store.memory.lock("a", ttl=60)

        (info,) = store.memory.held_locks()
        assert abs(datetime.fromtimestamp(store.now(), UTC) - info.locked_at) < timedelta(seconds=5)
        assert info.expires_at.tzinfo is UTC

    def test_there_may_be_more_than_a_batch(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(store.memory.store), "batch", 2)
        for id in "edcba":
            store.memory.lock(id)

        assert [info.id for info in store.memory.held_locks()] == ["a", "b", "c", "d", "e"]


class TestPurge:
    def left_behind(self, store: Store, worker: Worker) -> None:
        """Leave two expired leases, one with state and one without, and a live one."""
        for id in ("written", "unwritten", "live"):
            assert worker.lock(id, ttl=6000 if id == "live" else 600)
        worker.write("written", {"n": 1})
        for id in ("written", "unwritten"):
            store.expire(id, ago=60)

    def test_it_ends_expired_leases_and_deletes_what_was_never_written(self, store: Store, worker: Worker) -> None:
        store.memory.write("free", {})
        self.left_behind(store, worker)

        assert store.memory.purge_expired_locks() == PurgeResult(cleared=1, deleted=1)
        assert store.count() == 3
        assert store.lease_of("written") is None
        assert store.memory.read("written") == {"n": 1}

    def test_a_live_lease_goes_on(self, store: Store, worker: Worker) -> None:
        self.left_behind(store, worker)
        before = store.lease_of("live")
        store.memory.purge_expired_locks()

        assert before and store.lease_of("live") == before
        assert worker.write("live", {}) == 1

    def test_whoever_had_the_lease_has_lost_it(self, store: Store, worker: Worker) -> None:
        self.left_behind(store, worker)
        store.memory.purge_expired_locks()

        for id in ("written", "unwritten"):
            with pytest.raises(LockLost):
                worker.write(id, {"n": 2})
            assert worker.unlock(id) is True
            assert worker.lock(id) is True

    def test_a_recently_expired_one_may_be_left(self, store: Store, worker: Worker) -> None:
        self.left_behind(store, worker)

        assert store.memory.purge_expired_locks(older_than=timedelta(seconds=90)) == PurgeResult()
        assert store.memory.purge_expired_locks(older_than=45) == PurgeResult(cleared=1, deleted=1)

    def test_a_dry_run_counts_and_changes_nothing(self, store: Store, worker: Worker) -> None:
        self.left_behind(store, worker)
        before = store.count(), store.lease_of("written"), store.lease_of("unwritten")

        assert store.memory.purge_expired_locks(dry_run=True) == PurgeResult(cleared=1, deleted=1)
        assert (store.count(), store.lease_of("written"), store.lease_of("unwritten")) == before

    def test_there_may_be_more_than_a_batch(self, store: Store) -> None:
        for id in "abcde":
            store.memory.lock(id, ttl=60)
        for id in "abcde":
            store.expire(id)

        assert store.memory.purge_expired_locks(batch_size=2) == PurgeResult(deleted=5)
        assert store.memory.purge_expired_locks(batch_size=2) == PurgeResult()

    @pytest.mark.parametrize("older_than", [-1, True, float("nan"), "1h", None])
    def test_an_age_that_is_none_is_refused(self, store: Store, older_than: Any) -> None:
        with store.untouched(), pytest.raises(InvalidTTL, match="older_than must be"):
            store.memory.purge_expired_locks(older_than=older_than)

    @pytest.mark.parametrize("size", [0, 10_001, True, 1.5, None])
    def test_a_batch_that_is_none_is_refused(self, store: Store, size: Any) -> None:
        with (
            store.untouched(),
            pytest.raises(InvalidConfiguration, match="batch_size must be a positive int up to 10000"),
        ):
            store.memory.purge_expired_locks(batch_size=size)


DAY = 24 * 60 * 60


class TestRetention:
    def written(self, store: Store, id: str, *, days: float, status: str = "done", parent: str | None = None) -> None:
        store.memory.write(id, {"id": id}, metadata=Metadata(status=status, parent=parent))
        store.age(id, days * DAY)

    def ids(self, store: Store, *ids: str) -> list[str]:
        return [id for id in ids if store.memory.read(id) is not None]

    def test_what_has_been_idle_for_long_enough_goes(self, store: Store) -> None:
        self.written(store, "old", days=31)
        self.written(store, "young", days=29)
        self.written(store, "other", days=31, status="paid")
        store.memory.write("without a status", {})
        store.age("without a status", 31 * DAY)

        assert store.memory.purge_machines(status="done", idle=timedelta(days=30)) == PurgeResult(deleted=1)
        assert self.ids(store, "old", "young", "other", "without a status") == ["young", "other", "without a status"]

    def test_it_is_the_last_write_that_counts(self, store: Store) -> None:
        self.written(store, "a", days=31)
        store.memory.write("a", {"again": True})

        assert store.memory.purge_machines(status="done", idle=DAY) == PurgeResult()

    def test_a_leased_one_stays_and_one_whose_lease_is_over_goes(self, store: Store, worker: Worker) -> None:
        for id in ("held", "expired"):
            self.written(store, id, days=31)
            worker.lock(id, ttl=6000 if id == "held" else 600)
        store.expire("expired")
        self.written(store, "expired", days=31)

        assert store.memory.purge_machines(status="done", idle=DAY) == PurgeResult(deleted=1)
        assert self.ids(store, "held", "expired") == ["held"]
        assert worker.write("held", {}) == 2

    def test_fences_go_on_growing(self, store: Store) -> None:
        with store.memory.lease("a") as before:
            before.commit({"status": "done"})
        store.age("a", 31 * DAY)
        store.memory.purge_machines(status="done", idle=DAY)
        with store.memory.lease("a") as after:
            assert after.fence > before.fence

    def test_a_dry_run_counts_machines_and_bytes_and_changes_nothing(self, store: Store) -> None:
        for id in ("a", "ä"):
            self.written(store, id, days=31)
        result = store.memory.purge_machines(status="done", idle=DAY, dry_run=True)

        assert result.deleted == 2
        assert 2 * len('{"id":"a"}') + 1 <= result.bytes <= 2 * len('{"id": "a"}') + 1
        assert self.ids(store, "a", "ä") == ["a", "ä"]

    def test_there_may_be_more_than_a_batch_and_each_is_told(self, store: Store) -> None:
        for id in "abcde":
            self.written(store, id, days=31)
        told: list[PurgeResult] = []

        assert store.memory.purge_machines(status="done", idle=DAY, batch_size=2, on_batch=told.append).deleted == 5
        assert told[-1] == PurgeResult(deleted=5)
        assert store.memory.purge_machines(status="done", idle=DAY) == PurgeResult()

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_a_tree_goes_as_a_whole_or_not_at_all(self, store: Store, worker: Worker, dry_run: bool) -> None:
        for root in ("whole", "young", "busy", "held", "alone"):
            self.written(store, root, days=31)
        for root in ("whole", "young", "busy", "held"):
            for number in (1, 2):
                self.written(store, f"{root} {number}", days=31, parent=root)
        self.written(store, "young 2", days=1)
        self.written(store, "busy 2", days=31, status="paid")
        worker.lock("held 1", ttl=600)
        if store.name.startswith("redis"):
            with pytest.raises(InvalidConfiguration, match="In Redis no step spans a tree: purge its machines without"):
                store.memory.purge_machines(status="done", idle=DAY, tree=True)
            return
        for batch_size in (3, 1000):
            result = store.memory.purge_machines(
                status="done", idle=2 * DAY, tree=True, batch_size=batch_size, dry_run=dry_run
            )
            if dry_run or batch_size == 3:
                assert result.deleted == 4
        assert len(self.ids(store, "whole", "whole 1", "whole 2", "alone")) == (4 if dry_run else 0)
        others = [f"{root}{suffix}" for root in ("young", "busy", "held") for suffix in ("", " 1", " 2")]
        assert self.ids(store, *others) == others

    @pytest.mark.parametrize("status", [None, "", 5, "x" * 256, "\0"])
    def test_a_status_that_is_none_is_refused(self, store: Store, status: Any) -> None:
        with store.untouched(), pytest.raises(InvalidData, match="status must"):
            store.memory.purge_machines(status=status, idle=DAY)

    def test_an_age_that_is_none_is_refused(self, store: Store) -> None:
        with store.untouched(), pytest.raises(InvalidTTL, match="idle must be"):
            store.memory.purge_machines(status="done", idle=-1)


class TestRecord:
    def test_of_an_absent_machine_is_none(self, store: Store) -> None:
        assert store.memory.record("a") is None

    def test_it_tells_all_that_is_known(self, store: Store) -> None:
        metadata = Metadata(status="active", source="shop", initiator="alice", parent="p")
        store.memory.write("a", {"n": 1}, metadata=metadata)

        record = store.memory.record("a")
        assert record and (record.id, record.data, record.version) == ("a", {"n": 1}, 1)
        assert (record.status, record.source, record.initiator) == ("active", "shop", "alice")
        assert (record.parent, record.root) == ("p", "p")
        assert record.created_at.tzinfo is UTC and record.written_at >= record.created_at

    def test_to_show_it_is_not_to_show_the_data(self, store: Store) -> None:
        store.memory.write("a", {"big": "x" * 10_000}, metadata=Metadata(status="new"))
        shown = repr(store.memory.record("a"))
        assert shown.startswith("Record(id='a', version=1, fence=")
        assert "status='new'" in shown and "xxx" not in shown

    def test_what_a_write_leaves_out_stays(self, store: Store) -> None:
        store.memory.write("a", {}, metadata=Metadata(status="active", source="shop", initiator="alice"))
        store.memory.write("a", {}, metadata=Metadata(status="done"))
        store.memory.write("a", {})

        record = store.memory.record("a")
        assert record and (record.status, record.source, record.initiator) == ("done", "shop", "alice")

    def test_parent_and_root_are_those_of_the_first_write(self, store: Store) -> None:
        store.memory.write("a", {}, metadata=Metadata(parent="p"))
        store.memory.write("a", {}, metadata=Metadata(parent="q"))
        store.memory.write("b", {})
        store.memory.write("b", {}, metadata=Metadata(parent="q"))

        a, b = store.memory.record("a"), store.memory.record("b")
        assert a and b
        assert (a.parent, a.root, b.parent, b.root) == ("p", "p", None, "b")

    def test_the_first_write_may_come_after_a_lock(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            lease.write({}, metadata=Metadata(parent="p"))
            lease.commit({}, metadata=Metadata(parent="q"))

        record = store.memory.record("a")
        assert record and (record.parent, record.root, record.version) == ("p", "p", 2)

    def test_the_root_is_the_parents_root(self, store: Store) -> None:
        store.memory.write("a", {})
        store.memory.write("b", {}, metadata=Metadata(parent="a"))
        store.memory.lock("c")
        store.memory.write("c", {}, metadata=Metadata(parent="b"))
        store.memory.write("d", {}, metadata=Metadata(parent="unknown"))

        assert [record.root for id in "abcd" if (record := store.memory.record(id))] == ["a", "a", "a", "unknown"]

    def test_children_and_tree(self, store: Store) -> None:
        for id, parent in [("a", None), ("b", "a"), ("c", "a"), ("d", "b"), ("e", None)]:
            store.memory.write(id, {}, metadata=Metadata(parent=parent))
        store.memory.lock("f")

        assert store.memory.children("a") == ["b", "c"]
        assert store.memory.children("d") == []
        assert store.memory.tree("a") == ["a", "b", "c", "d"]
        assert store.memory.tree("e") == ["e"]
        assert store.memory.tree("f") == store.memory.tree("b") == []

    def test_an_arvo_record_speaks_for_itself(self, store: Store) -> None:
        store.memory.write("a", {"status": "active", "parentSubject": "p"})
        store.memory.write("b", {"status": "active"}, metadata=Metadata(status="done"))

        a, b = store.memory.record("a"), store.memory.record("b")
        assert a and b
        assert (a.status, a.parent, b.status) == ("active", "p", "done")

    @pytest.mark.parametrize("value", [None, 5, {"code": 1}, "", "x" * 600, "\0"], ids=repr)
    def test_other_uses_of_its_keys_are_left_alone(self, store: Store, value: Any) -> None:
        data = {"status": value, "parentSubject": value}
        if value == "\0":
            data = {"status": None, "parentSubject": []}
        store.memory.write("a", data)

        record = store.memory.record("a")
        assert record and (record.status, record.parent, record.data) == (None, None, data)

    def test_a_status_that_would_be_too_long_is_left_alone_too(self, store: Store) -> None:
        store.memory.write("a", {"status": "😀" * 151})
        record = store.memory.record("a")
        assert record and record.status is None

    def test_the_longest_of_all_go_together(self, store: Store) -> None:
        random = Random(3)  # noqa: S311  # What can be compressed is no measure.

        def longest(most: int) -> str:
            return "".join(chr(random.randint(0x10000, 0x10FFFF)) for _ in range(most))

        for id in (longest(512), longest(512)):
            labels = {name: longest(150) for name in ("status", "source", "initiator")}
            store.memory.write(id, {"n": 1}, metadata=Metadata(parent=longest(512), **labels), wake_at=timedelta(0))
            assert [found.id for found in store.memory.find(status=labels["status"])] == [id]
            with store.memory.leases([id]) as batch:
                batch.commit({id: {"n": 2}}, metadata=Metadata(**labels))


class TestContexts:
    """Which context is the holder: the thread or task that locked, and the tasks that it spawns."""

    def test_another_thread_is_not(self, store: Store) -> None:
        store.memory.lock("a")

        def elsewhere() -> bool:
            with pytest.raises(LockNotHeld):
                store.memory.write("a", {})
            return store.memory.unlock("a")

        with in_thread(elsewhere) as thread:
            assert thread.result() is False
        assert store.memory.write("a", {}) == 1

    def test_a_stale_thread_can_neither_write_nor_unlock_under_the_newer_lease(self, store: Store) -> None:
        taken_over = threading.Event()
        locked = threading.Event()

        def stale() -> bool:
            store.memory.lock("a")
            locked.set()
            taken_over.wait(5)
            with pytest.raises(LockLost):
                store.memory.write("a", {"by": "zombie"})
            return store.memory.unlock("a")

        with in_thread(stale) as thread:
            locked.wait(5)
            store.expire("a")
            store.memory.lock("a")
            store.memory.write("a", {"by": "holder"})
            before = store.lease_of("a")
            taken_over.set()
            assert thread.result() is False
        assert before and store.lease_of("a") == before
        assert store.memory.read("a") == {"by": "holder"}

    @asynchronous
    async def test_a_spawned_task_is_and_a_sibling_is_not(self, store: Store) -> None:
        locked = asyncio.Event()

        async def sibling() -> None:
            await locked.wait()
            with pytest.raises(LockNotHeld):
                await store.memory.awrite("a", {"by": "sibling"})
            assert await store.memory.aunlock("a") is False

        task = asyncio.create_task(sibling())
        assert await store.memory.alock("a") is True
        locked.set()
        await task
        assert await asyncio.create_task(store.memory.awrite("a", {"by": "child"})) == 1
        assert await store.memory.awrite("a", {"by": "parent"}) == 2
        assert await store.memory.aunlock("a") is True

    @asynchronous
    async def test_a_stale_task_can_neither_write_nor_unlock_under_the_newer_lease(self, store: Store) -> None:
        locked, taken_over = asyncio.Event(), asyncio.Event()

        async def stale() -> bool:
            await store.memory.alock("a")
            locked.set()
            await taken_over.wait()
            with pytest.raises(LockLost):
                await store.memory.awrite("a", {"by": "zombie"})
            return await store.memory.aunlock("a")

        task = asyncio.create_task(stale())
        await locked.wait()
        await store.in_thread(store.expire, "a")
        assert await store.memory.alock("a") is True
        await store.memory.awrite("a", {"by": "holder"})
        before = await store.in_thread(store.lease_of, "a")
        taken_over.set()
        assert await task is False
        assert before and await store.in_thread(store.lease_of, "a") == before
        assert await store.memory.aread("a") == {"by": "holder"}

    @asynchronous
    async def test_a_task_cancelled_while_it_locks_leaves_no_lease_behind(self, store: Store) -> None:
        for _ in range(5):
            task = asyncio.create_task(store.memory.alock("a"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await store.memory.alock("a") is True

    @asynchronous
    async def test_a_task_cancelled_in_its_block_releases(self, store: Store) -> None:
        entered = asyncio.Event()

        async def work() -> None:
            async with store.memory.alease("a"):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.memory.alock("a") is True

    def test_of_sixteen_threads_at_one_barrier_one_wins(self, store: Store) -> None:
        barrier = threading.Barrier(16)
        won: list[bool] = []

        def race() -> None:
            barrier.wait(10)
            won.append(store.memory.lock("a"))

        threads = [in_thread(race) for _ in range(16)]
        for thread in threads:
            thread.result()
        assert won.count(True) == 1
        assert len(won) == 16


class TestAsyncTwins:
    @asynchronous
    async def test_the_four_operations(self, store: Store) -> None:
        memory = store.memory
        assert await memory.aread("a") is None
        assert await memory.alock("a", ttl=60) is True
        assert await memory.alock("a") is False
        assert await memory.awrite("a", {"n": 1}, expected_version=0, metadata=Metadata(status="new")) == 1
        assert await memory.aread("a") == {"n": 1}
        assert await memory.aunlock("a") is True
        assert await memory.aunlock("a") is True

    @asynchronous
    async def test_the_lease(self, store: Store) -> None:
        await store.memory.awrite("a", {"n": 0})
        async with store.memory.alease("a", ttl=30) as lease:
            assert (lease.data, lease.version, lease.ttl) == ({"n": 0}, 1, 30)
            assert await lease.awrite({"n": 1}, metadata=Metadata(status="open")) == 2
            await lease.arenew(60)
            assert lease.ttl == 60
            with pytest.raises(LockDenied):
                async with store.memory.alease("a", wait=0.01):
                    pass
            assert await lease.acommit({"n": 2}) == 3
            assert await store.memory.alock("a") is True
            assert await store.memory.aunlock("a") is True
        async with store.memory.alease("a") as lease:
            assert await lease.arelease() is True
            with pytest.raises(LockLost, match="was released"):
                await lease.awrite({})

    @asynchronous
    async def test_the_block_releases_and_its_error_is_seen(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError):
            async with store.memory.alease("a", keep_alive=True):
                1 / 0  # noqa: B018
        assert await store.memory.alock("a") is True

    @asynchronous
    async def test_the_rest(self, store: Store) -> None:
        memory = store.memory
        await memory.alock("a")
        await memory.awrite("a", {"n": 1})
        await memory.awrite("b", {}, metadata=Metadata(parent="a"))
        record = await memory.arecord("a")

        assert record and record.data == {"n": 1}
        assert [info.id async for info in memory.aheld_locks()] == ["a"]
        assert await memory.achildren("a") == ["b"]
        assert await memory.atree("a") == ["a", "b"]
        assert await memory.apurge_expired_locks() == PurgeResult()
        assert await memory.apurge_machines(status="done", idle=0) == PurgeResult()
        assert await memory.acleanup("a") is True
        assert await memory.awrite("a", {"new": True}) == 1
        assert await memory.aforce_unlock("a") is False


class Order:
    """A stand-in for an object that is not JSON."""


def cyclic() -> dict[str, Any]:
    data: dict[str, Any] = {"list": []}
    data["list"].append(data)
    return data


def shared() -> dict[str, Any]:
    value: list[Any] = []
    for _ in range(25):
        value = [value] * 10
    return {"ten to the 25": value}


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels - 1):
        data = {"k": data}
    return data


BAD_IDS = {
    "None": (None, "id must be a str, not None"),
    "int": (5, "id must be a str, not 5"),
    "bytes": (b"a", "id must be a str, not <bytes>"),
    "object": (Order(), "id must be a str, not <Order>"),
    "empty": ("", "id must not be empty"),
    "513": ("x" * 513, f"id must be at most 512 characters, not 513: '{'x' * 64}'…"),
    "1 MB": ("\x1b" * 1_000_000, "id must be at most 512 characters, not 1,000,000: '" + "\\x1b" * 64 + "'…"),
    "NUL": ("a\0b", "id must not contain U+0000: 'a\\x00b'"),
    "surrogate": ("a\ud800", "id must not contain a lone surrogate: 'a\\ud800'"),
}
BAD_DATA: dict[str, Any] = {
    "None": (None, "data must be a mapping of JSON values, such as a dict, not None."),
    "list": ([], "data must be a mapping of JSON values, such as a dict, not <list>."),
    "text": ("{}", "data must be a mapping of JSON values, such as a dict, not '{}'."),
    "int key": ({"a": {1: 2}}, "data['a'] has a key that is not a str: 1."),
    "None key": ({None: 2}, "data has a key that is not a str: None."),
    "NaN": ({"a": [0, float("nan")]}, "data['a'][1] is nan, which JSON does not have."),
    "infinity": ({"a": float("-inf")}, "data['a'] is -inf, which JSON does not have."),
    "set": ({"a": {1}}, "data['a'] is a set, which JSON does not have: convert it to text or a number."),
    "tuple": ({"a": (1,)}, "data['a'] is a tuple, which JSON does not have"),
    "bytes": ({"a": b""}, "data['a'] is a bytes, which JSON does not have"),
    "datetime": ({"a": datetime.now(UTC)}, "data['a'] is a datetime, which JSON does not have"),
    "object": ({"a": [Order()]}, "data['a'][0] is a Order, which JSON does not have"),
    "NUL": ({"a": "\0"}, "data['a'] contains U+0000, which not every database can store: '\\x00'."),
    "NUL key": ({"\0": 1}, "data['\\x00'] contains U+0000"),
    "surrogate": ({"a": "\udfff"}, "data['a'] contains a lone surrogate, which is not valid Unicode text: '\\udfff'."),
    "surrogate key": ({"\ud800": 1}, "data['\\ud800'] contains a lone surrogate"),
    "cycle": (cyclic(), "contains itself."),
    "31 levels": (nested(31), "is nested deeper than 30 levels."),
    "shared": (shared(), "data must be at most 2,097,152 bytes as JSON, and is larger."),
    "2 MiB": ({"a": "x" * 2_097_145}, "data must be at most 2,097,152 bytes as JSON, not 2,097,153."),
    "2 MiB of Ä": ({"a": "Ä" * 1_500_000}, "data must be at most 2,097,152 bytes as JSON, not 3,000,008."),
    "digits": ({"a": 10**5000}, "data['a'] is an integer with more than 4,000 digits."),
}
BAD_TTLS = {
    "zero": (0, "ttl must be between 0.01 and 86400 seconds, not 0."),
    "negative": (-1, "ttl must be between 0.01 and 86400 seconds, not -1."),
    "9 ms": (0.009, "ttl must be between 0.01 and 86400 seconds, not 0.009."),
    "a day and more": (86_400.1, "ttl must be between 0.01 and 86400 seconds, not 86400.1."),
    "huge": (2**80, "ttl must be between 0.01 and 86400 seconds"),
    "True": (True, "ttl must be a number of seconds or a timedelta, not True."),
    "NaN": (float("nan"), "ttl must be between 0.01 and 86400 seconds, not nan."),
    "infinity": (float("inf"), "ttl must be between 0.01 and 86400 seconds, not inf."),
    "text": ("60", "ttl must be a number of seconds or a timedelta, not '60'."),
    "timedelta": (timedelta(days=2), "ttl must be between 0.01 and 86400 seconds, not 172800.0."),
}
BAD_VERSIONS = {
    "negative": (-1, "expected_version must be an int from 0 (no state yet), not -1."),
    "True": (True, "expected_version must be an int from 0 (no state yet), not True."),
    "float": (1.0, "expected_version must be an int from 0 (no state yet), not 1.0."),
    "text": ("1", "expected_version must be an int from 0 (no state yet), not '1'."),
}
BAD_METADATA = {
    "dict": ({"status": "x"}, InvalidData, "metadata must be a machine_memory.Metadata, not <dict>."),
    "status": (Metadata(status="x" * 256), InvalidData, "metadata.status must be at most 255 characters, not 256"),
    "bytes": (Metadata(status="😀" * 151), InvalidData, "metadata.status must be at most 600 bytes of UTF-8, not 604"),
    "source": (Metadata(source=""), InvalidData, "metadata.source must not be empty."),
    "initiator": (Metadata(initiator="\0"), InvalidData, "metadata.initiator must not contain U+0000"),
    "type": (Metadata(status=5), InvalidData, "metadata.status must be a str, not 5"),  # type: ignore[arg-type]
    "parent": (Metadata(parent="x" * 513), InvalidMachineId, "metadata.parent must be at most 512 characters"),
}


def cases(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", list(table.values()), ids=list(table))


@refusing
class TestBadInput:
    """It is refused before any query, alike by every backend, and nothing is lost or changed."""

    @cases(BAD_IDS)
    def test_ids(self, store: Store, bad: Any) -> None:
        value, message = bad
        memory = store.memory
        calls: list[Callable[[], Any]] = [
            lambda: memory.read(value),
            lambda: memory.write(value, {}),
            lambda: memory.lock(value),
            lambda: memory.unlock(value),
            lambda: memory.lease(value).__enter__(),
            lambda: memory.record(value),
            lambda: memory.cleanup(value),
            lambda: memory.force_unlock(value),
            lambda: memory.children(value),
            lambda: async_to_sync(memory.alock)(value),
            lambda: async_to_sync(memory.aunlock)(value),
        ]
        with store.untouched():
            for call in calls:
                with pytest.raises(InvalidMachineId) as refused:
                    call()
                assert str(refused.value).startswith(message)
                assert isinstance(refused.value, ValueError)

    @cases(BAD_DATA)
    def test_data(self, store: Store, bad: Any) -> None:
        value, message = bad
        with store.memory.lease("a") as lease:
            lease.write({"n": 1})
            calls: list[Callable[[], Any]] = [
                lambda: store.memory.write("a", value),
                lambda: lease.write(value),
                lambda: lease.commit(value),
            ]
            with store.untouched("a"):
                for call in calls:
                    with pytest.raises(InvalidData) as refused:
                        call()
                    assert message in str(refused.value)

    @cases(BAD_TTLS)
    def test_ttls(self, store: Store, bad: Any) -> None:
        value, message = bad
        with store.memory.lease("a") as lease:
            calls: list[Callable[[], Any]] = [
                lambda: store.memory.lock("b", ttl=value),
                lambda: store.memory.lease("b", ttl=value).__enter__(),
                lambda: lease.renew(value),
            ]
            with store.untouched("a"):
                for call in calls:
                    with pytest.raises(InvalidTTL) as refused:
                        call()
                    assert str(refused.value).startswith(message)

    @pytest.mark.parametrize("wait", [-1, True, "1", float("nan"), 86_401], ids=repr)
    def test_waits(self, store: Store, wait: Any) -> None:
        with store.untouched(), pytest.raises(InvalidTTL, match="^wait must be "):
            store.memory.lease("a", wait=wait).__enter__()

    @cases(BAD_VERSIONS)
    def test_versions(self, store: Store, bad: Any) -> None:
        value, message = bad
        store.memory.write("a", {"n": 1})
        with store.untouched("a"), pytest.raises(InvalidVersion) as refused:
            store.memory.write("a", {}, expected_version=value)
        assert str(refused.value) == message

    @cases(BAD_METADATA)
    def test_metadata(self, store: Store, bad: Any) -> None:
        value, error, message = bad
        store.memory.write("a", {"n": 1})
        with store.untouched("a"), pytest.raises(error) as refused:
            store.memory.write("a", {}, metadata=value)
        assert str(refused.value).startswith(message)


class TestFind:
    def written(self, store: Store) -> None:
        for id in ("order-3", "order-1", "order-2", "mail-1", "Ä%_*-1"):
            status = "done" if id.endswith("2") else "new"
            store.memory.write(id, {"big": "x" * 1000}, metadata=Metadata(status=status, source="shop"))
        store.memory.write("plain", {})
        store.memory.lock("unwritten")

    def ids(self, store: Store, **criteria: Any) -> list[str]:
        return [summary.id for summary in store.memory.find(**criteria)]

    def test_it_is_all_with_state_by_id(self, store: Store) -> None:
        assert self.ids(store) == []
        self.written(store)
        assert self.ids(store) == ["mail-1", "order-1", "order-2", "order-3", "plain", "Ä%_*-1"]

    def test_each_comes_as_its_record_without_the_data(self, store: Store) -> None:
        self.written(store)
        store.memory.write("a", {"n": 1}, metadata=Metadata(parent="order-1", initiator="i"))
        for summary in store.memory.find():
            record = store.memory.record(summary.id)
            assert record and type(summary) is Summary
            assert {**asdict(summary), "data": record.data} == asdict(record)
            assert summary.written_at.tzinfo is UTC

    def test_no_data_is_asked_for(self, store: Store) -> None:
        self.written(store)
        with store.asked() as questions:
            list(store.memory.find())
        assert not any("data" in question for question in questions)

    def test_the_criteria_narrow_it_each_and_together(self, store: Store) -> None:
        self.written(store)
        assert self.ids(store, status="new") == ["mail-1", "order-1", "order-3", "Ä%_*-1"]
        assert self.ids(store, status="NEW") == []
        assert self.ids(store, prefix="order-") == ["order-1", "order-2", "order-3"]
        assert self.ids(store, prefix="order-2") == ["order-2"]
        assert self.ids(store, prefix="Ä%_*") == ["Ä%_*-1"]
        assert self.ids(store, prefix="%") == self.ids(store, prefix="Order") == []
        assert self.ids(store, after="order-1") == ["order-2", "order-3", "plain", "Ä%_*-1"]
        assert self.ids(store, after="order-1a", limit=1) == ["order-2"]
        assert self.ids(store, status="new", prefix="order-", after="order-1", limit=5) == ["order-3"]

    def test_a_prefix_is_one_whatever_follows_it(self, store: Store) -> None:
        for id in ("p", "p\U0010ffffz", "q", "\ud7ffz", "\ue000", "\U0010ffff", "\U0010ffff\U0010ffff"):
            store.memory.write(id, {})
        assert self.ids(store, prefix="p") == ["p", "p\U0010ffffz"]
        assert self.ids(store, prefix="\ud7ff") == ["\ud7ffz"]
        assert self.ids(store, prefix="\U0010ffff") == ["\U0010ffff", "\U0010ffff\U0010ffff"]
        assert self.ids(store, prefix="p\U0010ffff") == ["p\U0010ffffz"]

    def test_idle_is_for_how_long_nobody_has_written(self, store: Store) -> None:
        self.written(store)
        for id, days in (("order-1", 3), ("order-2", 1)):
            store.age(id, days * DAY)
        assert self.ids(store, idle=timedelta(days=2)) == ["order-1"]
        assert self.ids(store, idle=DAY) == ["order-1", "order-2"]
        assert len(self.ids(store, idle=0)) == 6

    def test_there_may_be_more_than_a_batch(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(store.memory.store), "batch", 2)
        for id in "edcba":
            store.memory.write(id, {})
        for limit in range(1, 7):
            assert self.ids(store, limit=limit) == list("abcde")[:limit]
        assert self.ids(store) == list("abcde")
        assert self.ids(store, after="a") == list("bcde")

    def test_what_is_written_meanwhile_spoils_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(store.memory.store), "batch", 2)
        for id in "bdf":
            store.memory.write(id, {})
        found = store.memory.find()
        first = [next(found).id, next(found).id]
        for id in "ace":
            store.memory.write(id, {})
        assert first + [summary.id for summary in found] == ["b", "d", "e", "f"]

    @asynchronous
    async def test_its_async_twin_goes_by_batches_too(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(store.memory.store), "batch", 2)
        for id in "edcba":
            await store.memory.awrite(id, {}, metadata=Metadata(status="new"))
            await store.memory.alock(id)
        assert [summary.id async for summary in store.memory.afind(status="new", limit=4)] == list("abcd")
        assert [info.id async for info in store.memory.aheld_locks()] == list("abcde")

    @refusing
    @pytest.mark.parametrize(
        ("criteria", "error", "message"),
        [
            ({"status": ""}, InvalidData, "status must not be empty."),
            ({"status": 1}, InvalidData, "status must be a str, not 1"),
            ({"prefix": ""}, InvalidMachineId, "prefix must not be empty."),
            ({"prefix": "a\0"}, InvalidMachineId, "prefix must not contain U+0000"),
            ({"after": 7}, InvalidMachineId, "after must be a str, not 7"),
            ({"idle": -1}, InvalidTTL, "idle must be between 0 and"),
            ({"idle": "1h"}, InvalidTTL, "idle must be a number of seconds or a timedelta"),
            ({"limit": 0}, InvalidConfiguration, "limit must be a positive int, not 0."),
            ({"limit": True}, InvalidConfiguration, "limit must be a positive int"),
        ],
        ids=str,
    )
    def test_what_makes_no_sense_is_refused_at_once(
        self, store: Store, criteria: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        for find in (store.memory.find, store.memory.afind):
            with store.untouched(), pytest.raises(error) as refused:
                find(**criteria)
            assert str(refused.value).startswith(message)


class TestTravel:
    """A lease that is detached in one context and attached in another."""

    def sent(self, store: Store, id: str = "a", **options: Any) -> str:
        with store.memory.lease(id, **options) as lease:
            return lease.detach()

    def test_the_end_of_the_block_does_not_end_it(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a") as lease:
            lease.write({"n": 1})
            before = store.lease_of("a")
            with store.untouched("a"):
                lease.detach()
        assert before and store.lease_of("a") == before
        assert worker.lock("a") is False

    def test_whoever_attaches_it_goes_on_with_state_fence_and_owner(self, store: Store, worker: Worker) -> None:
        with store.memory.lease("a", ttl=60) as lease:
            lease.write({"n": 1})
            text = lease.detach()
        before = store.lease_of("a")

        def go_on() -> None:
            with store.memory.attach(text) as attached:
                (info,) = store.memory.held_locks()
                assert (attached.data, attached.version, attached.ttl) == ({"n": 1}, 1, 60)
                assert (attached.fence, attached.owner) == (lease.fence, lease.owner) == (info.fence, info.owner)
                assert store.lease_of("a") == before
                attached.write({"n": 2})
                assert store.memory.write("a", {"n": 3}) == 3
            assert store.lease_of("a") is None

        worker._context.run(go_on)
        assert worker.lock("a") is True

    def test_commit_writes_and_releases(self, store: Store, worker: Worker) -> None:
        with store.memory.attach(self.sent(store)) as lease:
            assert (lease.data, lease.version) == (None, 0)
            assert lease.commit({"n": 1}) == 1
            assert worker.lock("a") is True

    def test_the_time_that_remains_is_that_of_the_store_and_never_more(self, store: Store) -> None:
        text = self.sent(store, ttl=60)
        time.sleep(0.03)
        store.passed(0.03)
        with store.memory.attach(text) as lease:
            stored = store.lease_of("a")
            remaining, left = lease.remaining, (stored[1] if stored else 0.0) - store.now()
            assert 59 < remaining <= 59.98
            assert remaining <= left + 0.002  # The clocks of this host and of its servers are one, to be read in turn.

    def test_a_ttl_extends_it(self, store: Store) -> None:
        text = self.sent(store, ttl=60)
        with store.memory.attach(text, ttl=timedelta(minutes=10)) as lease:
            assert (lease.ttl, 599 < lease.remaining <= 600) == (600, True)
            (info,) = store.memory.held_locks()
            assert timedelta(seconds=599) < info.expires_at - info.locked_at < timedelta(seconds=630)
            lease.renew()
            assert lease.remaining > 599

    def test_it_may_be_kept_alive(self, store: Store) -> None:
        text = self.sent(store, ttl=3)
        with store.memory.attach(text, keep_alive=True) as lease:
            first = store.lease_of("a")
            store.wait_until(lambda: store.lease_of("a") != first)
            assert lease.remaining > 0

    def test_detaching_ends_that_too(self, store: Store) -> None:
        with store.memory.lease("a", ttl=3, keep_alive=True) as lease:
            lease.detach()
            stored = store.lease_of("a")
            time.sleep(1.5)
            assert stored and store.lease_of("a") == stored

    def test_a_detached_one_is_of_no_use_any_more_and_does_no_harm(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            lease.detach()
            uses: list[Callable[[], Any]] = [
                lambda: lease.write({}),
                lambda: lease.commit({}),
                lease.renew,
                lease.detach,
            ]
            with store.untouched("a"):
                for use in uses:
                    with pytest.raises(LockLost, match="The lease of 'a' was detached: whoever has the text"):
                        use()
            with pytest.raises(LockNotHeld):
                store.memory.write("a", {})
            before = store.lease_of("a")
            assert [lease.release(), store.memory.unlock("a")] == [False, False]
            assert before and store.lease_of("a") == before

    def test_it_may_travel_on(self, store: Store) -> None:
        text = self.sent(store)
        for n in range(3):
            with store.memory.attach(text) as lease:
                lease.write({"n": n})
                assert lease.detach() == text
        with store.memory.attach(text) as lease:
            assert (lease.data, lease.version) == ({"n": 2}, 3)

    def test_whoever_has_the_text_is_the_holder_and_versions_are_checked(self, store: Store, worker: Worker) -> None:
        text = self.sent(store)
        with store.memory.attach(text) as lease, worker.attach(text) as other:
            assert other.write({"by": "other"}) == 1
            with pytest.raises(VersionConflict):
                lease.write({"by": "first"})
            assert other.commit({"by": "other"}) == 2
        assert store.memory.read("a") == {"by": "other"}

    @pytest.mark.parametrize("ttl", [None, 60])
    @pytest.mark.parametrize("end", ["expired", "forced", "taken over", "released", "removed"])
    def test_one_that_is_over_is_lost_and_nothing_changes(
        self, store: Store, worker: Worker, end: str, ttl: float | None
    ) -> None:
        store.memory.write("a", {"n": 1})
        text = self.sent(store)
        if end == "forced":
            store.memory.force_unlock("a")
        elif end == "released":
            with worker.attach(text):
                pass
        elif end == "removed":
            store.memory.force_unlock("a")
            store.memory.cleanup("a")
        else:
            store.expire("a")
        if end == "taken over":
            worker.lock("a")
        before = store.lease_of("a"), store.memory.record("a"), store.count()
        with pytest.raises(LockLost, match="The lease of 'a' is over"), store.memory.attach(text, ttl=ttl):
            pass
        assert (store.lease_of("a"), store.memory.record("a"), store.count()) == before

    def test_it_is_released_when_the_block_fails(self, store: Store) -> None:
        with pytest.raises(KeyError), store.memory.attach(self.sent(store)):
            raise KeyError
        assert store.lease_of("a") is None

    def test_one_that_is_over_cannot_be_detached(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            lease.commit({})
            with pytest.raises(LockLost, match="The lease of 'a' was committed"):
                lease.detach()
        with store.memory.lease("b") as lease:
            lease.renew(0.05)
            time.sleep(0.06)
            store.passed(0.06)
            with pytest.raises(LockLost, match="The lease of 'b' is over"):
                lease.detach()

    def test_hostile_ids_travel(self, store: Store) -> None:
        for id in HOSTILE_IDS:
            with store.memory.attach(self.sent(store, id)) as lease:
                assert lease.id == id
                lease.commit({"id": id})
            assert store.memory.read(id) == {"id": id}

    def test_a_takeover_is_not_told_twice(self, store: Store, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
        worker.lock("a")
        store.expire("a")
        text = self.sent(store)
        assert len(caplog.messages) == 1
        with store.memory.attach(text, ttl=60):
            pass
        assert len(caplog.messages) == 1

    @asynchronous
    async def test_its_async_twin(self, store: Store) -> None:
        async with store.memory.alease("a") as lease:
            await lease.awrite({"n": 1})
            text = lease.detach()

        async def go_on(**options: Any) -> None:
            async with store.memory.aattach(text, **options) as lease:
                await lease.acommit({"n": lease.data["n"] + 1})

        await asyncio.create_task(go_on(ttl=60))
        assert await store.memory.aread("a") == {"n": 2}
        with pytest.raises(LockLost):
            await go_on()

    @pytest.mark.parametrize("text", [None, 1, b"1.a.b", "", "x", "1.e30.0123456789abcdef", "1.é.0123456789abcdef"])
    def test_what_is_no_lease_is_refused_at_once(self, store: Store, text: Any) -> None:
        for attach in (store.memory.attach, store.memory.aattach):
            with store.untouched(), pytest.raises(InvalidLease, match="^text "):
                attach(text)
        with store.untouched(), pytest.raises(InvalidTTL):
            store.memory.attach(travel.packed(("a", "0" * 32, 60.0)), ttl=0)
