"""What OpenTelemetry is told of each operation, on every store, and what it is never told."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from machine_memory import (
    InvalidData,
    LockLost,
    LockNotHeld,
    ReadError,
    SimpleMachineMemory,
    VersionConflict,
    memories,
    telemetry,
)
from tests.conftest import Worker, asynchronous
from tests.stores import Store

README = (Path(__file__).parents[1] / "README.md").read_text()
CANARY = "canary-7f3a"


class Told:
    """What was exported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("machine_memory")
        meters = MeterProvider(metric_readers=[self._reader])
        monkeypatch.setattr(telemetry, "tracer", self.tracer)
        monkeypatch.setattr(telemetry, "instruments", telemetry.Instruments(meters.get_meter("machine_memory")))

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def outcomes(self) -> list[str]:
        """Return operation and outcome of each span, and forget them."""
        told = [
            f"{span.name.removeprefix('machine_memory.')} {(span.attributes or {})['machine_memory.outcome']!s}"
            for span in self.spans()
        ]
        self._exporter.clear()
        return told

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_each_operation_tells_its_outcome(store: Store, worker: Worker, told: Told) -> None:
    memory = store.memory
    memory.read("a")
    with memory.lease("a") as lease:
        worker.lock("a")
        worker.unlock("a")
        lease.write({"n": 1})
        lease.renew()
        lease.commit({"n": 2})
    memory.record("a")
    memory.unlock("a")
    memory.force_unlock("a")
    memory.children("a"), memory.tree("a"), list(memory.held_locks())
    memory.purge_expired_locks()
    memory.purge_machines(status="done", idle=0)
    memory.cleanup("a")

    assert told.outcomes() == [
        *("read miss", "lock acquired", "lock denied", "unlock not_held", "write written", "renew renewed"),
        *("commit written", "record hit", "unlock released", "force_unlock not_held"),
        *("children hit", "tree hit", "held_locks hit", "purge_expired_locks purged", "purge_machines purged"),
        "cleanup removed",
    ]


def test_each_refusal_tells_why(store: Store, worker: Worker, told: Told) -> None:
    memory = store.memory
    memory.lock("a")
    worker.lock("b")
    memory.force_unlock("a")
    refusals: list[tuple[type[Exception], Callable[[], Any]]] = [
        (LockLost, lambda: memory.write("a", {})),
        (LockLost, lambda: memory.cleanup("a")),
        (LockNotHeld, lambda: memory.write("b", {})),
        (VersionConflict, lambda: worker.write("b", {}, expected_version=7)),
        (InvalidData, lambda: memory.write("c", {"x": {1}})),
    ]
    for refused, call in refusals:
        with pytest.raises(refused):
            call()

    assert told.outcomes() == [
        *("lock acquired", "lock acquired", "force_unlock released"),
        *("write lost", "cleanup lost", "write not_held", "write conflict", "write error"),
    ]


def test_a_span_has_these_attributes(store: Store, told: Told) -> None:
    with store.memory.lease("a", ttl=60) as lease:
        lease.commit({"ä": 1})
    lock, commit = told.spans()
    about = {"machine_memory.alias": "-", "machine_memory.backend": store.memory.backend}

    assert (lock.name, lock.kind, lock.status.status_code) == (
        "machine_memory.lock",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert dict(lock.attributes or {}) == {
        **about,
        "machine_memory.operation": "lock",
        "machine_memory.outcome": "acquired",
        "machine_memory.ttl": 60.0,
        "machine_memory.fence": lease.fence,
        "machine_memory.version": 0,
    }
    assert dict(commit.attributes or {}) == {
        **about,
        "machine_memory.operation": "commit",
        "machine_memory.outcome": "written",
        "machine_memory.bytes": len('{"ä":1}'.encode()),
        "machine_memory.version": 1,
    }


def test_spans_are_children_of_the_callers(store: Store, told: Told) -> None:
    with told.tracer.start_as_current_span("request") as request:
        store.memory.write("a", {})
    span, _ = told.spans()
    assert span.parent and span.parent.span_id == request.get_span_context().span_id


@asynchronous
async def test_so_are_those_of_tasks(store: Store, told: Told) -> None:
    with told.tracer.start_as_current_span("request") as request:
        async with store.memory.alease("a") as lease:
            await lease.acommit({})
        await asyncio.gather(store.memory.aread("a"), store.memory.aread("b"))
    spans = [span for span in told.spans() if span.name != "request"]

    assert sorted(span.name for span in spans) == [
        f"machine_memory.{verb}" for verb in ("commit", "lock", "read", "read")
    ]
    assert {span.parent.span_id for span in spans if span.parent} == {request.get_span_context().span_id}


def test_a_failure_tells_its_kind_and_how_often_it_was_tried(server: Any, told: Told) -> None:
    with server.through_proxy() as (memory, proxy):
        memory.read("warm up")
        server.hang_up(memory)
        proxy.refuse()
        memory._retrying.sleep = lambda seconds: None
        told.outcomes()
        with pytest.raises(ReadError):
            memory.read("a")
    (span,) = told.spans()
    attributes = dict(span.attributes or {})

    assert attributes["machine_memory.outcome"] == "error"
    assert attributes["error.type"] == server.no_answer
    assert attributes["machine_memory.attempts"] == 3
    assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())
    (point,) = told.metrics()["machine_memory.read.retries"].data.data_points
    assert point.value == 2


def test_an_unlock_that_fails_is_an_error_though_it_is_only_false(server: Any, told: Told) -> None:
    with server.through_proxy() as (memory, proxy):
        memory.lock("a")
        server.hang_up(memory)
        proxy.refuse()
        told.outcomes()
        assert memory.unlock("a") is False
        assert told.outcomes() == ["unlock error"]


def test_metrics_have_these_names_units_and_attributes(store: Store, told: Told) -> None:
    with store.memory.lease("a") as lease:
        lease.commit({"n": 1})
    metrics = told.metrics()
    about = {"machine_memory.alias": "-", "machine_memory.backend": store.memory.backend}

    assert {(name, metric.unit) for name, metric in metrics.items()} == {
        ("machine_memory.operation.duration", "s"),
        ("machine_memory.lock.hold.duration", "s"),
        ("machine_memory.data.size", "By"),
    }
    points = metrics["machine_memory.operation.duration"].data.data_points
    assert sorted(dict(point.attributes)["machine_memory.operation"] for point in points) == ["commit", "lock"]
    for point in points:
        assert set(point.attributes) == {*about, "machine_memory.operation", "machine_memory.outcome"}
        assert list(point.explicit_bounds) == telemetry.DURATION.boundaries
    (held,) = metrics["machine_memory.lock.hold.duration"].data.data_points
    assert (held.count, dict(held.attributes)) == (1, about)
    (size,) = metrics["machine_memory.data.size"].data.data_points
    assert (size.sum, dict(size.attributes)) == (len('{"n":1}'), about)


def test_a_memory_of_the_settings_tells_its_alias(told: Told) -> None:
    memories["simple"].read("a")
    (span,) = told.spans()
    assert (span.attributes or {})["machine_memory.alias"] == "simple"


def test_the_number_of_series_does_not_grow_with_the_machines(told: Told) -> None:
    memory = SimpleMachineMemory()

    def series() -> int:
        return sum(len(metric.data.data_points) for metric in told.metrics().values())

    def work(first: int, last: int) -> None:
        for number in range(first, last):
            with memory.lease(f"order-{number}") as lease:
                lease.commit({"n": number})

    work(0, 10)
    before = series()
    work(10, 20_000)
    assert series() == before == 4


def test_nothing_that_is_the_users_is_told(server: Any, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "machine_memory")
    memory, id = server.new_memory(), f"id {CANARY}"
    with memory.lease(id) as lease:
        lease.write({CANARY: CANARY})
        memory.force_unlock(id)
        with pytest.raises(LockLost):
            lease.commit({CANARY: CANARY})
        token = lease._token
    with server.through_proxy() as (cut, proxy):
        server.hang_up(cut)
        proxy.refuse()
        cut._retrying.sleep = lambda seconds: None
        with pytest.raises(ReadError):
            cut.read(id)

    spans = " ".join(span.to_json() for span in told.spans())
    metrics = repr([metric.to_json() for metric in told.metrics().values()])
    assert "machine_memory.lock" in spans
    for secret in (CANARY, token, lease.owner):
        assert secret not in spans
        assert secret not in metrics


def test_ids_are_told_where_the_settings_allow_it(store: Store, told: Told) -> None:
    store.new_memory(telemetry_ids=True).read("order-42")
    (span,) = told.spans()
    assert (span.attributes or {})["machine_memory.id"] == "order-42"


def test_without_an_sdk_nothing_is_kept() -> None:
    memory = SimpleMachineMemory()
    with memory.lease("a") as lease:
        lease.commit({})
    with telemetry.tracer.start_span("x") as span:
        assert not span.is_recording()


def test_the_table_of_instruments_is_that_of_the_code() -> None:
    table = re.findall(r"^\| `(machine_memory\.[a-z.]+)` \| (\S+) \| (.+) \|$", README, re.MULTILINE)
    assert table == [(name, f"`{unit}`", description) for name, unit, description, _ in telemetry.INSTRUMENTS]
