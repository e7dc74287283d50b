"""Arvo's cycle: lock, read, run, write, unlock; one event of a machine under one lease."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from example_project.fulfilment.events import Event, Outcome, Result, Step
from example_project.fulfilment.workflow import Workflow
from machine_memory import KEEP, BaseMachineMemory, Batch, CommitRefused, Lease, LockDenied, LockLost

ACTIVE, DONE = "active", "done"
"""Arvo's statuses of a machine."""
Observer = Callable[[Step, Batch], None]


@dataclass(frozen=True, slots=True)
class Turn:
    """What an event does to a machine, once that is written."""

    outcome: Outcome
    data: dict[str, Any]
    wake_at: Any = KEEP
    """When the machine is due; ``None``: never."""


def create_arvo_orchestrator(
    *,
    memory: BaseMachineMemory,
    execution_units: int,
    machines: Iterable[type[Workflow]],
    observe: Observer | None = None,
    ttl: float | None = None,
) -> "Orchestrator":
    """Build an orchestrator that keeps its machines in ``memory``.

    ``execution_units``: what handling one event costs; the data of a machine holds their sum. ``machines``: the
    workflows, in all editions that are in use. ``observe``: called with each step of a batch. ``ttl``: seconds of a
    lease, by default the memory's.
    """
    return Orchestrator(memory, execution_units, machines, observe or (lambda step, batch: None), ttl)


class Orchestrator:
    """Handle events that come more than once, in any order, at many workers."""

    def __init__(
        self,
        memory: BaseMachineMemory,
        execution_units: int,
        machines: Iterable[type[Workflow]],
        observe: Observer,
        ttl: float | None,
    ) -> None:
        self._memory = memory
        self._execution_units = execution_units
        self._newest_first = sorted(machines, key=lambda machine: machine.edition, reverse=True)
        self._observe = observe
        self._ttl = ttl

    def handle(self, event: Event) -> Result:
        """Handle an event, once however often it comes; one that is ``DENIED`` has to come again."""
        try:
            with self._memory.lease(event.subject, ttl=self._ttl) as lease:
                turn = self._turn(lease, event)
                if turn.outcome != Outcome.DUPLICATE:
                    lease.commit(turn.data, wake_at=turn.wake_at)
                return Result(turn.outcome, lease.version)
        except (LockDenied, LockLost):
            # Another worker has the machine, or took it over while this one was slow: its write was refused.
            return Result(Outcome.DENIED)

    def handle_each(self, events: Iterable[Event]) -> dict[str, Result]:
        """Handle one event each of many machines, as ``handle`` does; return what they came to, by machine."""
        by_machine = {event.subject: event for event in events}
        with self._memory.leases(by_machine, ttl=self._ttl) as batch:
            return self._handle_held(batch, by_machine)

    def time_out(self, limit: int, *, in_time: Callable[[list[str]], Collection[str]]) -> dict[str, Result]:
        """Let happen what happens by itself to machines whose time is up; return what it came to, by machine.

        ``in_time``: says for which of these an event has come that is still to be handled. They are left as they are,
        and their time is up again a little later.
        """
        with self._memory.claim(limit, status=ACTIVE, ttl=self._ttl) as batch:
            spared = in_time([lease.id for lease in batch])
            events = {lease.id: self._timeout_of(lease) for lease in batch if lease.id not in spared}
            return self._handle_held(batch, events)

    def _handle_held(self, batch: Batch, events: Mapping[str, Event]) -> dict[str, Result]:
        self._observe(Step.LOCKED, batch)
        turns = {id: self._turn(batch[id], event) for id, event in events.items() if id in batch}
        self._commit(batch, {id: turn for id, turn in turns.items() if turn.outcome != Outcome.DUPLICATE})
        self._observe(Step.COMMITTED, batch)
        return {id: _result(batch, id, turns.get(id)) for id in events}

    def _commit(self, batch: Batch, turns: Mapping[str, Turn]) -> None:
        by_timer: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for id, turn in turns.items():
            by_timer[turn.wake_at][id] = turn.data
        for wake_at, states in by_timer.items():
            with suppress(CommitRefused):  # What was refused is not among what was committed.
                batch.commit(states, wake_at=wake_at)

    def _turn(self, lease: Lease, event: Event) -> Turn:
        # What an event does and that it was handled is one write: whenever the worker dies, the event can come again.
        # It has done nothing yet, or is a duplicate.
        data = lease.data or self._begin(event)
        if event.id in data["events"]:
            return Turn(Outcome.DUPLICATE, data)
        before = data["state"]
        outcome = self._run(event, data)
        return Turn(outcome, data, KEEP if data["state"] == before else self._time_left(data))

    def _time_left(self, data: dict[str, Any]) -> timedelta | None:
        """Return how long a machine may stay in a state that it has just come to; ``None``: for ever."""
        timeout = self._definition(data["machine"]).timeouts.get(data["state"])
        return timeout.after if timeout else None

    def _timeout_of(self, lease: Lease) -> Event:
        timeout = self._definition(lease.data["machine"]).timeouts[lease.data["state"]]
        return Event(id=f"{lease.id}:{timeout.event}", subject=lease.id, name=timeout.event)

    def _begin(self, event: Event) -> dict[str, Any]:
        """Return the data of a new machine, of the newest edition that knows the event."""
        definition = next((known for known in self._newest_first if event.name in known.event_names()), None)
        if definition is None:
            raise LookupError(f"No workflow knows the event {event.name!r} of {event.subject!r}.")
        return {
            "subject": event.subject,
            "parentSubject": None,
            "status": ACTIVE,
            "machine": definition.key(),
            "state": definition().current_state_value,
            "events": [],
            "early": [],
            "executionUnits": 0,
        }

    def _run(self, event: Event, data: dict[str, Any]) -> Outcome:
        """Advance the machine as far as it goes with this event and those that came too early for their turn."""
        machine = self._definition(data["machine"])(start_value=data["state"])
        early = [*data["early"], event.name]
        while turn := next((name for name in early if name in machine.allowed_events), None):
            machine.send(turn)
            early.remove(turn)
        data["status"] = DONE if machine.is_terminated else ACTIVE
        data["state"] = machine.current_state_value
        data["events"].append(event.id)
        data["early"] = early
        data["executionUnits"] += self._execution_units
        return Outcome.EARLY if event.name in early else Outcome.HANDLED

    def _definition(self, key: str) -> type[Workflow]:
        """Return what a machine in flight goes on with: the edition that it began with."""
        for definition in self._newest_first:
            if definition.key() == key:
                return definition
        raise LookupError(f"The workflow {key!r} is in use and no longer among the machines.")


def _result(batch: Batch, id: str, turn: Turn | None) -> Result:
    if turn and (turn.outcome == Outcome.DUPLICATE or id in batch.committed):
        return Result(turn.outcome, batch[id].version)
    return Result(Outcome.DENIED)
