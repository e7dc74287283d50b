"""State that something else wrote, deeper than Python follows: corrupt, and no reason to keep a lease."""

import json
from typing import Any

import pytest

from machine_memory import CorruptRecord
from machine_memory.models import MachineRecord
from tests.conftest import asynchronous, databases, redis_servers
from tests.contract.stores import Store
from tests.database.store import DatabaseStore
from tests.database.test_database import execute
from tests.redis.store import RedisStore

DEEP = '{"a":' * 2000 + "1" + "}" * 2000


def is_followed() -> bool:
    """Return whether this Python reads JSON that is so deep: how deep differs from one to the next."""
    try:
        json.loads(DEEP)
    except RecursionError:
        return False
    return True


def put(store: Store, id: str, text: str) -> None:
    """Store a text as state."""
    store.memory.write(id, {})
    if isinstance(store, DatabaseStore):
        execute(store.alias, f"UPDATE {MachineRecord._meta.db_table} SET data = %s WHERE id = %s", text, id)
    elif isinstance(store, RedisStore):
        store.client.hset(store.key(id), "data", text)
    else:
        machines: Any = store.memory.store
        machines._machines[id].data = text


@pytest.mark.skipif(is_followed(), reason="this Python reads JSON that is so deep")
# MariaDB stores nothing so deep, as it checks that a column of JSON is valid.
@pytest.mark.parametrize("store", ["simple", *databases("sqlite", "postgresql"), *redis_servers()], indirect=True)
class TestDeeplyNested:
    @pytest.fixture(autouse=True)
    def deep(self, store: Store) -> None:
        put(store, "a", DEEP)

    def test_it_is_corrupt_however_it_is_read(self, store: Store) -> None:
        for look in (store.memory.read, store.memory.record):
            with pytest.raises(CorruptRecord, match="The state of 'a' is "):
                look("a")

    def test_a_lease_of_it_is_given_back(self, store: Store) -> None:
        with pytest.raises(CorruptRecord, match="The state of 'a' is "), store.memory.lease("a"):
            pass
        assert store.lease_of("a") is None
        assert store.memory.lock("a") is True
        assert store.memory.write("a", {"n": 1}) == 2

    @asynchronous
    async def test_it_is_the_same_for_a_task(self, store: Store) -> None:
        with pytest.raises(CorruptRecord, match="The state of 'a' is "):
            async with store.memory.alease("a"):
                pass
        assert await store.in_thread(store.lease_of, "a") is None
