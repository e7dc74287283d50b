"""The contract, where every connection is to another node of a cluster: the tests are those of ``tests.contract``."""

from collections.abc import Iterator

import pytest

from tests.clusters import galera
from tests.clusters.galera import Galera
from tests.contract.stores import Store, named
from tests.contract.suite import (
    TestAsyncTwins,
    TestCleanup,
    TestFence,
    TestForceUnlock,
    TestHeldLocks,
    TestHolder,
    TestLease,
    TestLock,
    TestPurge,
    TestRenew,
    TestRetention,
    TestTravel,
    TestUnlock,
    TestWrite,
)
from tests.contract.test_batches import TestCommitting
from tests.contract.test_batches import TestTaking as TestTakingOfAny
from tests.contract.test_timers import TestClaiming, TestTimers

__all__ = [
    "TestAsyncTwins",
    "TestClaiming",
    "TestCleanup",
    "TestCommitting",
    "TestFence",
    "TestForceUnlock",
    "TestHeldLocks",
    "TestHolder",
    "TestLease",
    "TestLock",
    "TestPurge",
    "TestRenew",
    "TestRetention",
    "TestTimers",
    "TestTravel",
    "TestUnlock",
    "TestWrite",
]
if galera.missing:
    pytest.skip(f"galera: {galera.missing}", allow_module_level=True)
pytestmark = pytest.mark.django_db(transaction=True, databases=[galera.ALIAS])


@pytest.fixture
def store(cluster: Galera, transactional_db: None) -> Iterator[Store]:
    store = named(galera.ALIAS)
    yield store
    store.close()


@pytest.fixture
def shared_store(store: Store) -> Store:
    return store


@pytest.fixture
def database(store: Store) -> Store:
    return store


class TestTaking(TestTakingOfAny):
    test_ten_thousand_ids = None  # type: ignore[assignment]  # It brings its own stores.


del TestTakingOfAny
