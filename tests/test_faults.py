"""Servers whose answers get lost on the way, or that are not there."""

from collections.abc import Iterator

import pytest

from machine_memory import LockError, ReadError, UnknownOutcome, WriteError
from tests.contract.stores import ServerStore
from tests.proxy import Proxy


class TestLostReplies:
    @pytest.fixture
    def proxy(self, server: ServerStore) -> Iterator[Proxy]:
        with server.through_proxy() as (self.memory, proxy):
            self.memory.lock("warm up")
            self.memory.write("warm up", {})
            yield proxy

    def test_a_write_that_never_arrived_has_an_unknown_outcome(self, server: ServerStore, proxy: Proxy) -> None:
        server.memory.write("a", {"n": 1})
        proxy.before = server.decisive
        with pytest.raises(UnknownOutcome, match="The reply to the write of 'a' was lost: it may have been applied."):
            self.memory.write("a", {"n": 2})

        assert server.memory.read("a") == {"n": 1}

    def test_a_write_whose_reply_was_lost_has_an_unknown_outcome(self, server: ServerStore, proxy: Proxy) -> None:
        self.memory.write("a", {"n": 1})
        proxy.after = server.decisive
        with pytest.raises(UnknownOutcome):
            self.memory.write("a", {"n": 2})
        proxy.after = None

        record = self.memory.record("a")
        assert record
        assert (record.data, record.version) == ({"n": 2}, 2)

    def test_a_lease_whose_grant_was_lost_is_claimed(self, server: ServerStore, proxy: Proxy) -> None:
        self.memory.write("a", {"n": 1})
        proxy.after = server.decisive
        with self.memory.lease("a") as lease:
            proxy.after = None
            assert proxy.connections == 2
            assert (lease.data, lease.version) == ({"n": 1}, 1)
            assert server.memory.lock("a") is False
            assert lease.commit({"n": 2}) == 2
        assert server.memory.read("a") == {"n": 2}

    def test_a_lock_that_never_arrived_is_an_error_and_no_lease(self, server: ServerStore, proxy: Proxy) -> None:
        self.memory.write("a", {"n": 1})
        proxy.before = server.decisive
        with pytest.raises(LockError):
            self.memory.lock("a")

        # A server may take a moment to see that the connection is gone, and let go of the row.
        server.wait_until(lambda: server.memory.lock("a"))

    def test_a_read_whose_reply_was_lost_is_repeated(self, server: ServerStore, proxy: Proxy) -> None:
        server.memory.write("a", {"n": 1})
        proxy.after = server.question
        self.memory._reads._retrying.sleep = lambda seconds: setattr(proxy, "after", None)

        assert self.memory.read("a") == {"n": 1}
        assert proxy.connections == 2

    def test_a_store_that_is_down_is_an_error_after_three_attempts_to_read(
        self, server: ServerStore, proxy: Proxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.memory.lock("a")
        server.hang_up(self.memory)
        proxy.refuse()
        waits: list[float] = []
        self.memory._reads._retrying.sleep = waits.append

        with pytest.raises(ReadError, match=rf"The store failed to read 'a' \({server.no_answer}\)"):
            self.memory.read("a")
        assert len(waits) == 2
        assert 0.05 <= waits[0] <= 0.1
        assert 0.1 <= waits[1] <= 0.15
        with pytest.raises(LockError):
            self.memory.lock("b")
        with pytest.raises(WriteError) as failed:
            self.memory.write("a", {})
        assert type(failed.value) is WriteError
        with pytest.raises(WriteError):
            self.memory.cleanup("a")
        with pytest.raises(LockError):
            self.memory.force_unlock("a")
        with pytest.raises(LockError):
            self.memory.purge_expired_locks()
        with pytest.raises(ReadError):
            next(self.memory.held_locks())
        assert self.memory.unlock("a") is False
