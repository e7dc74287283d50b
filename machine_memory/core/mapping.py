"""A store of a mapping: each machine is one value, taken out, changed and put back."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import replace
from heapq import nsmallest
from itertools import islice
from typing import Any

from machine_memory.core.encoding import decode
from machine_memory.core.kept import (
    Kept,
    KeptLease,
    due_at,
    grant,
    known,
    lock_info,
    merged,
    snapshot,
    utc,
    wakes,
)
from machine_memory.core.records import (
    MOST_DOUBLINGS,
    Change,
    Claim,
    Claimed,
    Criteria,
    Due,
    Grant,
    LockInfo,
    Look,
    Machine,
    Metadata,
    PurgeResult,
    Record,
    Resumption,
    Retention,
    Snapshot,
    Sought,
    Summary,
)
from machine_memory.core.store import Store, refusal


class MappingStore(Store):
    """Machines in a mapping, by their ids.

    ``mutex`` keeps out all others who use the mapping, for as long as a step takes; ``clock`` tells seconds since 1970.
    A step replaces a machine by one assignment: where that is atomic, a crash leaves none half written.
    """

    def __init__(
        self,
        machines: MutableMapping[str, Kept],
        mutex: AbstractContextManager[object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._machines, self._mutex, self._clock = machines, mutex, clock
        self._last_fence = 0
        """The highest fence of the machines that this process has removed; later ones go on from there."""

    def read(self, id: str) -> object:
        with self._mutex:
            machine = self._machines.get(id)
        return decode(machine.data) if machine else None

    def record(self, id: str) -> Record | None:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or not machine.version:
                return None
            data: Any = decode(machine.data)
            return Record(id=id, data=data, **known(machine))

    def write(self, change: Change) -> int:
        with self._mutex:
            machine = self._machines.get(change.id)
            self._refuse_unless_open(change.id, machine, change.token, change.expected_version)
            machine = machine or self._new()
            now, metadata = self._clock(), merged(machine, change.metadata)
            wake_at = wakes(machine, change, now)
            root = machine.root if machine.version else self._root(change.id, change.ancestor)
            # From here on no call is made, so that no signal can leave half of it.
            machine.metadata, machine.root, machine.written_at = metadata, root, now
            machine.wake_at, machine.attempts = wake_at, 0
            machine.data, machine.version = change.data, machine.version + 1
            if change.release:
                machine.lease = None
            elif change.extend is not None and machine.lease is not None:
                machine.lease.expires_at = now + change.extend
            self._machines[change.id] = machine
            return machine.version

    def acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        with self._mutex:
            machine = self._machines.get(id) or self._new()
            if self._live_token(machine):
                return None
            now = self._clock()
            lease = KeptLease(token=token, owner=owner, trace=trace, locked_at=now, expires_at=now + ttl)
            return self._granted(id, machine, lease)

    def claim(self, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
        claimed = []
        with self._mutex:
            now = self._clock()
            found = sorted(
                (at, id)
                for id, machine in self._machines.items()
                if (at := due_at(machine, claim)) is not None and at <= now and not self._live_token(machine)
                if claim.status in (None, machine.metadata.status)
            )
            for number, (at, id) in enumerate(islice(found, claim.limit)):
                token, machine = claim.token(number), self._machines[id]
                pending[token] = id
                lease = KeptLease(
                    token=token, owner=claim.owner, trace=claim.trace, locked_at=now, expires_at=now + claim.ttl
                )
                machine.attempts = attempts = machine.attempts + 1
                if rearmed := machine.wake_at is None or machine.wake_at <= now:
                    delay = claim.ttl * 2 ** min(attempts - 1, MOST_DOUBLINGS)
                    machine.wake_at = now + delay if attempts < claim.max_attempts else None
                granted = self._granted(id, machine, lease)
                due = Due(utc(at), now - at, attempts, rearmed)
                claimed.append(Claimed(id, token, replace(granted, due=due)))
        return claimed

    def granted(self, id: str, *, token: str) -> Grant | None:
        with self._mutex:
            machine = self._machines.get(id)
            return grant(machine) if machine and machine.lease and machine.lease.token == token else None

    def resume(self, id: str, *, token: str, ttl: float | None) -> Resumption | None:
        with self._mutex:
            machine, now = self._machines.get(id), self._clock()
            if machine is None or machine.lease is None or self._live_token(machine) != token:
                return None
            lease = machine.lease
            if ttl is not None:
                lease.expires_at = now + ttl
                self._machines[id] = machine
            found = grant(machine)
            return Resumption(found.text, found.version, found.fence, owner=lease.owner, left=lease.expires_at - now)

    def holder_trace(self, id: str) -> str | None:
        with self._mutex:
            machine = self._machines.get(id)
            return machine.lease.trace if machine and machine.lease and self._live_token(machine) else None

    def holder(self, id: str) -> LockInfo | None:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or machine.lease is None or not self._live_token(machine):
                return None
            return lock_info(id, machine, machine.lease)

    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or machine.lease is None or self._live_token(machine) != token:
                return False
            machine.lease.expires_at = self._clock() + ttl
            self._machines[id] = machine
            return True

    def release(self, id: str, *, token: str | None) -> bool:
        with self._mutex:
            machine = self._machines.get(id)
            if machine and machine.lease and machine.lease.token == token:
                machine.lease = None
                self._machines[id] = machine
            return self._live_token(machine) is None

    def force_release(self, id: str, *, fence: int | None) -> bool:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or machine.lease is None or fence not in (None, machine.fence):
                return False
            machine.lease = None
            machine.fence = self._next_fence(machine)
            self._machines[id] = machine
            return True

    def remove(self, id: str, *, token: str | None) -> None:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None:
                return
            self._refuse_unless_open(id, machine, token)
            self._delete(id)

    def held_locks(self, after: str) -> list[LockInfo]:
        with self._mutex:
            held = [(id, one) for id, one in sorted(self._machines.items()) if id > after and self._live_token(one)]
            return [lock_info(id, one, one.lease) for id, one in held if one.lease]

    def find(self, criteria: Criteria, after: str, limit: int) -> list[Summary]:
        with self._mutex:
            found = nsmallest(limit, (id for id in self._machines if id > after and self._meets(id, criteria)))
            return [Summary(id=id, **known(self._machines[id])) for id in found]

    def look(self, sought: Sought, start: str, limit: int) -> Look:
        with self._mutex:
            machines = map(self._seen, sorted(id for id in self._machines if id > start))
            found = list(islice(filter(sought.is_met_by, machines), limit + 1))
        return Look(found[:limit], found[limit - 1].id if len(found) > limit else "")

    def look_at(self, ids: Collection[str], *, with_data: bool = False) -> list[Machine]:
        with self._mutex:
            return [self._seen(id, with_data) for id in ids if id in self._machines]

    def purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        with self._mutex:
            latest = self._clock() - older_than
            expired = {id: one for id, one in self._machines.items() if one.lease and one.lease.expires_at <= latest}
            unwritten = [id for id, machine in expired.items() if not machine.version]
            if not dry_run:
                for id, machine in expired.items():
                    machine.lease = None
                    self._machines[id] = machine
                for id in unwritten:
                    self._delete(id)
        yield PurgeResult(cleared=len(expired) - len(unwritten), deleted=len(unwritten))

    def purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        with self._mutex:
            latest = self._clock() - retention.idle
            going = {
                id: machine
                for id, machine in self._machines.items()
                if machine.version and machine.metadata.status == retention.status
                if machine.written_at <= latest and machine.wake_at is None and not self._live_token(machine)
            }
            if retention.tree:
                sizes = Counter(machine.root for machine in self._machines.values())
                gone = Counter(machine.root for machine in going.values())
                going = {id: machine for id, machine in going.items() if gone[machine.root] == sizes[machine.root]}
            if not dry_run:
                for id in going:
                    self._delete(id)
        size = sum(len(machine.data.encode()) for machine in going.values()) if dry_run else 0
        yield PurgeResult(deleted=len(going), bytes=size)

    def children(self, id: str) -> list[str]:
        with self._mutex:
            return sorted(child for child, machine in self._machines.items() if machine.metadata.parent == id)

    def tree(self, root: str) -> list[str]:
        with self._mutex:
            return sorted(id for id, machine in self._machines.items() if machine.root == root)

    def export(self, ids: Collection[str]) -> list[Snapshot]:
        with self._mutex:
            return [snapshot(id, found) for id in ids if (found := self._machines.get(id)) and found.version]

    def adopt(self, machines: Collection[Snapshot]) -> set[str]:
        with self._mutex:
            return {machine.id for machine in machines if self._adopt(machine)}

    # Only called while the mutex is held.

    def _adopt(self, new: Snapshot) -> bool:
        old = self._machines.get(new.id)
        if old and (self._live_token(old) or not new.is_newer(old.version, old.fence)):
            return False
        self._machines[new.id] = Kept(
            fence=max(new.fence, old.fence if old else self._last_fence),
            created_at=new.created_at.timestamp(),
            data=new.text,
            version=new.version,
            metadata=Metadata(status=new.status, source=new.source, initiator=new.initiator, parent=new.parent),
            root=new.root,
            written_at=new.written_at.timestamp(),
            wake_at=new.wake_at.timestamp() if new.wake_at else None,
            attempts=new.attempts,
        )
        return True

    def _live_token(self, machine: Kept | None) -> str | None:
        if machine is None or machine.lease is None or machine.lease.expires_at <= self._clock():
            return None
        return machine.lease.token

    def _meets(self, id: str, criteria: Criteria) -> bool:
        machine = self._machines[id]
        return (
            machine.version > 0
            and criteria.status in (None, machine.metadata.status)
            and id.startswith(criteria.prefix or "")
            and (criteria.idle is None or machine.written_at <= self._clock() - criteria.idle)
            and (criteria.exhausted is None or criteria.exhausted == (self._seen(id).timer == "exhausted"))
        )

    def _seen(self, id: str, with_data: bool = False) -> Machine:
        machine, lease = self._machines[id], self._machines[id].lease
        wake_at = None if machine.wake_at is None else utc(machine.wake_at)
        row = known(machine) | {"attempts": machine.attempts, "wake_at": wake_at}
        if lease:
            times = {"lease_acquired_at": utc(lease.locked_at), "lease_expires_at": utc(lease.expires_at)}
            row |= {"lease_owner": lease.owner, "lease_trace": lease.trace, **times}
        return Machine(id=id, now=utc(self._clock()), data=decode(machine.data) if with_data else None, **row)

    def _granted(self, id: str, machine: Kept, lease: KeptLease) -> Grant:
        evicted = (machine.lease.trace or "") if machine.lease else None
        machine.lease, machine.fence = lease, self._next_fence(machine)
        self._machines[id] = machine
        return grant(machine, evicted)

    def _refuse_unless_open(
        self, id: str, machine: Kept | None, token: str | None, expected_version: int | None = None
    ) -> None:
        version = machine.version if machine else 0
        live_token = self._live_token(machine)
        reason = refusal(id, token=token, live_token=live_token, version=version, expected_version=expected_version)
        if reason is not None:
            raise reason

    def _new(self) -> Kept:
        now = self._clock()
        fence = max(self._last_fence + 1, int(now * 1_000_000))
        return Kept(fence=fence, created_at=now)

    def _next_fence(self, machine: Kept) -> int:
        return max(machine.fence + 1, int(self._clock() * 1_000_000))

    def _delete(self, id: str) -> None:
        self._last_fence = max(self._last_fence, self._machines.pop(id).fence)

    def _root(self, id: str, parent: str | None) -> str:
        if parent is None:
            return id
        above = self._machines.get(parent)
        return above.root if above and above.root else parent
