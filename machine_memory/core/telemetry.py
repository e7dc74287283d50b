"""OpenTelemetry: a span and a measurement for each operation. The API alone: nothing, until the host sets up an SDK.

Never data, tokens, or what a driver says; an id on spans alone, and only where ``TELEMETRY_IDS`` allows it.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import Token
from functools import lru_cache
from typing import NamedTuple, Protocol, Self
from weakref import ref

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from machine_memory.core.records import Grant
from machine_memory.exceptions import LockLost, LockNotHeld, VersionConflict

OUTCOMES: dict[type[Exception], str] = {LockLost: "lost", LockNotHeld: "not_held", VersionConflict: "conflict"}
"""Of the errors that are answers; any other is an ``error``."""
REFUSALS = tuple(OUTCOMES)
MOST_LINKS = 10
"""Of one span to the traces of expired leases."""


class Instrument(NamedTuple):
    """By the attributes ``machine_memory.backend``, ``machine_memory.alias`` and ``attributes``."""

    name: str
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    boundaries: list[float] | None = None
    """Of a histogram's buckets."""


DURATION = Instrument(
    "machine_memory.operation.duration",
    "s",
    "How long an operation took.",
    attributes=("machine_memory.operation", "machine_memory.outcome", "error.type"),
    boundaries=[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
)
HOLD = Instrument(
    "machine_memory.lock.hold.duration",
    "s",
    "How long a lease was held, from its grant until it was given back.",
    boundaries=[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600],
)
HELD = Instrument("machine_memory.lock.held", "{lease}", "The live leases of this process, by its own clock.")
TAKEOVERS = Instrument("machine_memory.lock.takeovers", "{takeover}", "Locks that took over from an expired lease.")
REFUSED = Instrument(
    "machine_memory.write.refusals",
    "{refusal}",
    "Refused writes and cleanups; those of zombies are `lost`.",
    attributes=("machine_memory.outcome",),
)
RETRIES = Instrument("machine_memory.read.retries", "{retry}", "How often a read was repeated.")
SIZE = Instrument(
    "machine_memory.data.size",
    "By",
    "The state of a write, as JSON.",
    boundaries=[128, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304],
)
LAG = Instrument(
    "machine_memory.wake.lag",
    "s",
    "How long a machine was due before it was claimed.",
    boundaries=[0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86_400],
)
EXHAUSTED = Instrument("machine_memory.wake.exhausted", "{machine}", "Machines that were claimed for the last time.")
INSTRUMENTS = (DURATION, HOLD, HELD, TAKEOVERS, REFUSED, RETRIES, SIZE, LAG, EXHAUSTED)


class Origin(NamedTuple):
    """Which memory an operation is of."""

    backend: str
    alias: str


class _Lease(Protocol):
    def _is_live(self) -> bool: ...


class Instruments:
    """Those above, of one meter."""

    def __init__(self, meter: metrics.Meter) -> None:
        def histogram(instrument: Instrument) -> metrics.Histogram:
            name, unit, description, _, boundaries = instrument
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=boundaries)

        def counter(instrument: Instrument) -> metrics.Counter:
            return meter.create_counter(instrument.name, instrument.unit, instrument.description)

        self.duration, self.hold, self.size = histogram(DURATION), histogram(HOLD), histogram(SIZE)
        self.takeovers, self.refusals, self.retries = counter(TAKEOVERS), counter(REFUSED), counter(RETRIES)
        self.lag, self.exhausted = histogram(LAG), counter(EXHAUSTED)
        meter.create_observable_gauge(HELD.name, [self._held], HELD.unit, HELD.description)
        self._leases: dict[ref[_Lease], Origin] = {}
        self._origins: set[Origin] = set()
        """Where there ever was a lease: from then on there are some, or none."""

    def granted(self, lease: _Lease, origin: Origin) -> None:
        """Count a lease, for as long as it is live and somebody has it."""
        self._leases[ref(lease, self._leases.pop)] = origin  # As a WeakKeyDictionary does, at a third of its cost.
        self._origins.add(origin)

    def _held(self, options: CallbackOptions) -> Iterator[Observation]:
        references = self._leases.copy()  # Other threads take and release meanwhile.
        leases = [(lease, origin) for reference, origin in references.items() if (lease := reference())]
        live = Counter(origin for lease, origin in leases if lease._is_live())
        for origin in list(self._origins):
            yield Observation(live[origin], _about(*origin))


tracer = trace.get_tracer("machine_memory")
instruments = Instruments(metrics.get_meter("machine_memory"))
_propagator = TraceContextTextMapPropagator()


class Operation:
    """What one operation of a memory comes to. ``id``: to be put on its span."""

    __slots__ = ("_name", "_origin", "_shown_id", "_span", "_started", "_token", "outcome")

    def __init__(self, name: str, origin: Origin, id: str | None) -> None:
        self._name = name
        self._origin = origin
        self._shown_id = id
        self._token: Token[Context] | None = None
        self.outcome = "error"

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._span = tracer.start_span(f"machine_memory.{self._name}", kind=SpanKind.CLIENT)
        if self._span.is_recording():
            self._token = context.attach(trace.set_span_in_context(self._span))
            self.note(id=self._shown_id)
        return self

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        self.end(failure)

    @property
    def is_recorded(self) -> bool:
        return self._token is not None

    def trace(self) -> str | None:
        """Return what others need to refer to this operation, as W3C's ``traceparent``."""
        if self._token is None:
            return None
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get("traceparent")

    def link(self, trace_of_another: str | None) -> None:
        """Refer to another operation by what its ``trace`` said."""
        if self._token is not None and trace_of_another:
            self._span.add_link(_span_context(trace_of_another))

    def batch(self, size: int) -> None:
        if self._token is not None:
            self._span.set_attribute("db.operation.batch.size", size)

    def note(self, **details: AttributeValue | None) -> None:
        """Say more of it, on its span alone."""
        if self._token is not None:
            for name, value in details.items():
                if value is not None:
                    self._span.set_attribute(f"machine_memory.{name}", value)

    def locked(self, grant: Grant | None, ttl: float) -> None:
        self.note(ttl=ttl)
        if grant is None:
            self.outcome = "denied"
            return
        self.outcome = "acquired"
        self.note(fence=grant.fence, version=grant.version)
        if grant.evicted is not None:
            instruments.takeovers.add(1, _about(*self._origin))
            self.link(grant.evicted)

    def locked_each(self, grants: Collection[Grant], *, denied: int, ttl: float) -> None:
        self.outcome = "acquired" if grants else "denied"
        self.note(ttl=ttl, granted=len(grants), denied=denied)
        evicted = [grant.evicted for grant in grants if grant.evicted is not None]
        if evicted:
            instruments.takeovers.add(len(evicted), _about(*self._origin))
        for trace_of_another in evicted[:MOST_LINKS]:
            self.link(trace_of_another)

    def claimed(self, grants: Collection[Grant], *, ttl: float, max_attempts: int) -> None:
        self.outcome = "miss"
        if grants:
            self.batch(len(grants))
            self.locked_each(grants, denied=0, ttl=ttl)
        dues = [grant.due for grant in grants if grant.due is not None]
        for due in dues:
            instruments.lag.record(due.lag, _about(*self._origin))
        if exhausted := sum(due.attempts >= max_attempts for due in dues):
            instruments.exhausted.add(exhausted, _about(*self._origin))

    def wrote(self, text: str, version: int) -> None:
        self.outcome = "written"
        self.note(bytes=self._size(text), version=version)

    def wrote_each(self, texts: Iterable[str]) -> None:
        self.outcome = "written"
        self.note(bytes=sum(map(self._size, texts)))

    def _size(self, text: str) -> int:
        size = len(text) if text.isascii() else len(text.encode())
        instruments.size.record(size, _about(*self._origin))
        return size

    def refused(self, refusal: Exception) -> str:
        outcome = _outcome_of(refusal)
        instruments.refusals.add(1, _about(*self._origin, outcome=outcome))
        return outcome

    def retried(self, attempts: int) -> None:
        instruments.retries.add(attempts - 1, _about(*self._origin))
        self.note(attempts=attempts)

    def system(self) -> str | None:
        """Return OpenTelemetry's name of the database, if it is one; only asked where it is recorded."""
        return None

    def end(self, failure: BaseException | None) -> None:
        error = None
        if failure is not None:
            self.outcome = _outcome_of(failure)
            if self.outcome == "error":
                error = type(failure.__cause__ or failure).__name__
        about = _about(*self._origin, self._name, self.outcome, error)
        instruments.duration.record(time.perf_counter() - self._started, about)
        if self._token is not None:
            context.detach(self._token)
            self._span.set_attributes(about)
            if system := self.system():
                self._span.set_attribute("db.system.name", system)
            if self.outcome == "error":
                self._span.set_status(StatusCode.ERROR)
            self._span.end()


def held(origin: Origin, seconds: float) -> None:
    """Record how long a lease was held."""
    instruments.hold.record(seconds, _about(*origin))


def trace_id(trace_of_another: str | None) -> str | None:
    """Return the id of a trace, as those who show traces know it."""
    context = _span_context(trace_of_another or "")
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def _span_context(traceparent: str) -> SpanContext:
    there = _propagator.extract({"traceparent": traceparent}, Context())
    return trace.get_current_span(there).get_span_context()


def _outcome_of(failure: BaseException) -> str:
    return next((outcome for kind, outcome in OUTCOMES.items() if isinstance(failure, kind)), "error")


@lru_cache(maxsize=1024)
def _about(
    backend: str, alias: str, operation: str | None = None, outcome: str | None = None, error: str | None = None
) -> Mapping[str, str]:
    """Return the attributes that say this. They are few, and building them anew would cost each operation."""
    attributes = {
        "machine_memory.backend": backend,
        "machine_memory.alias": alias,
        "machine_memory.operation": operation,
        "machine_memory.outcome": outcome,
        "error.type": error,
    }
    return {name: value for name, value in attributes.items() if value is not None}
