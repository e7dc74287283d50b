"""Arvo's cycle: lock, read, run, write, unlock; one event under one lease."""

from collections.abc import Callable, Iterable
from typing import Any

from example_project.fulfilment.events import Event, Outcome, Result, Step
from example_project.fulfilment.workflow import Workflow
from machine_memory import BaseMachineMemory, Lease, LockDenied, LockLost

Observer = Callable[[Step, Lease], None]


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
    workflows, in all editions that are in use. ``observe``: called with each step and its lease. ``ttl``: seconds of a
    lease, by default the memory's.
    """
    return Orchestrator(memory, execution_units, machines, observe or (lambda step, lease: None), ttl)


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
                self._observe(Step.LOCKED, lease)
                data = lease.data or self._begin(event)
                if event.id in data["events"]:
                    return Result(Outcome.DUPLICATE, lease.version)
                outcome = self._run(event, data)
                # What the event did and that it was handled is one write: whenever the worker dies, the event can come
                # again. It has done nothing yet, or is a duplicate.
                lease.write(data)
                self._observe(Step.WRITTEN, lease)
                return Result(outcome, lease.version)
        except (LockDenied, LockLost):
            # Another worker has the machine, or took it over while this one was slow: its write was refused.
            return Result(Outcome.DENIED)

    def _begin(self, event: Event) -> dict[str, Any]:
        """Return the data of a new machine, of the newest edition that knows the event."""
        definition = next((known for known in self._newest_first if event.name in known.event_names()), None)
        if definition is None:
            raise LookupError(f"No workflow knows the event {event.name!r} of {event.subject!r}.")
        return {
            "subject": event.subject,
            "parentSubject": None,
            "status": "active",
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
        data["status"] = "done" if machine.is_terminated else "active"
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
