"""OpenTelemetry: a span and a measurement for each operation. The API alone: nothing, until the host sets up an SDK.

Never data, tokens, or what a driver says; an id on spans alone, and only where ``TELEMETRY_IDS`` allows it.
"""

import time
from contextvars import Token
from typing import NamedTuple, Self

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from machine_memory.exceptions import LockLost, LockNotHeld, VersionConflict
from machine_memory.records import Grant

OUTCOMES: dict[type[Exception], str] = {LockLost: "lost", LockNotHeld: "not_held", VersionConflict: "conflict"}
"""Of the errors that are answers; any other is an ``error``."""


class Instrument(NamedTuple):
    name: str
    unit: str
    description: str
    boundaries: list[float] | None = None
    """Of a histogram's buckets; a counter has none."""


DURATION = Instrument(
    "machine_memory.operation.duration",
    "s",
    "How long an operation took, by its outcome.",
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
)
HOLD = Instrument(
    "machine_memory.lock.hold.duration",
    "s",
    "How long a lease was held, from its grant until it was given back.",
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600],
)
RETRIES = Instrument("machine_memory.read.retries", "{retry}", "How often a read was repeated.")
SIZE = Instrument(
    "machine_memory.data.size",
    "By",
    "The state of a write, as JSON.",
    [128, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304],
)
INSTRUMENTS = (DURATION, HOLD, RETRIES, SIZE)


class Instruments:
    """Those above, of one meter."""

    def __init__(self, meter: metrics.Meter) -> None:
        def histogram(instrument: Instrument) -> metrics.Histogram:
            name, unit, description, boundaries = instrument
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=boundaries)

        self.duration, self.hold, self.size = histogram(DURATION), histogram(HOLD), histogram(SIZE)
        self.retries = meter.create_counter(RETRIES.name, RETRIES.unit, RETRIES.description)


tracer = trace.get_tracer("machine_memory")
instruments = Instruments(metrics.get_meter("machine_memory"))


class Operation:
    """What one operation of a memory comes to. ``id``: to be put on its span."""

    __slots__ = ("_about", "_name", "_shown_id", "_span", "_started", "_token", "outcome")

    def __init__(self, name: str, backend: str, alias: str, id: str | None) -> None:
        self._name = name
        self._about: dict[str, str] = {"machine_memory.backend": backend, "machine_memory.alias": alias}
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
        else:
            self.outcome = "acquired"
            self.note(fence=grant.fence, version=grant.version)

    def wrote(self, text: str, version: int) -> None:
        self.outcome = "written"
        size = len(text) if text.isascii() else len(text.encode())
        instruments.size.record(size, self._about)
        self.note(bytes=size, version=version)

    def retried(self, attempts: int) -> None:
        instruments.retries.add(attempts - 1, self._about)
        self.note(attempts=attempts)

    def end(self, failure: BaseException | None) -> None:
        about = self._about | {"machine_memory.operation": self._name}
        if failure is not None:
            self.outcome = next((name for kind, name in OUTCOMES.items() if isinstance(failure, kind)), "error")
            if self.outcome == "error":
                about["error.type"] = type(failure.__cause__ or failure).__name__
        about["machine_memory.outcome"] = self.outcome
        instruments.duration.record(time.perf_counter() - self._started, about)
        if self._token is not None:
            context.detach(self._token)
            self._span.set_attributes(about)
            if self.outcome == "error":
                self._span.set_status(StatusCode.ERROR)
            self._span.end()


def held(backend: str, alias: str, seconds: float) -> None:
    """Record how long a lease was held."""
    instruments.hold.record(seconds, {"machine_memory.backend": backend, "machine_memory.alias": alias})
