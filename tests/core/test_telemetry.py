"""What OpenTelemetry is told of each operation, on every store, and what it is never told."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest
from django.db import OperationalError, connections
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from machine_memory import (
    BaseMachineMemory,
    CommitRefused,
    InvalidData,
    Lease,
    LockLost,
    LockNotHeld,
    MachineMemoryError,
    SimpleMachineMemory,
    VersionConflict,
    memories,
)
from machine_memory.core import lifecycle, telemetry, travel
from tests.conftest import Worker, asynchronous, databases, in_thread, redis_servers
from tests.contract.stores import SimpleStore, Store
from tests.database.store import DatabaseStore

METRICS = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text()
CANARY = "canary-7f3a"

each_backend = pytest.mark.parametrize("store", ["simple", *databases(forms=("",)), redis_servers()[0]], indirect=True)
"""Where it is all the same in which form a database takes its steps."""


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

    def last(self) -> ReadableSpan:
        return self.spans()[-1]

    def forget(self) -> None:
        self._exporter.clear()

    def outcomes(self) -> list[str]:
        """Return operation and outcome of each span."""
        named = [span for span in self.spans() if span.name.startswith("machine_memory.")]
        return [f"{attribute(span, 'operation')} {attribute(span, 'outcome')}" for span in named]

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> list[tuple[Any, dict[str, Any]]]:
        """Return the numbers of a counter or gauge, with what they are about."""
        metric = self.metrics().get(f"machine_memory.{name}")
        return [(point.value, dict(point.attributes)) for point in metric.data.data_points] if metric else []


def attribute(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {})[f"machine_memory.{name}"]


def position(context: SpanContext | None) -> tuple[int, int] | None:
    """Return trace and span: what comes back from a store is the same, but marked as from elsewhere."""
    return context and (context.trace_id, context.span_id)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def about(store: Store) -> dict[str, str]:
    """Return what every measurement at this store says."""
    return {"machine_memory.alias": "-", "machine_memory.backend": store.memory.store.name}


def system(store: Store) -> dict[str, str]:
    if isinstance(store, SimpleStore):
        return {}
    return {"db.system.name": "redis" if store.name.startswith("redis") else store.name}


class Case(NamedTuple):
    """An operation that comes to an outcome, and what else its span says."""

    called: str
    details: dict[str, Any]
    act: Callable[[Store, Worker], Any]
    refusal: type[MachineMemoryError] | None = None


def held_by_worker(store: Store, worker: Worker) -> BaseMachineMemory:
    worker.lock("a")
    return store.memory


def lost(store: Store, worker: Worker) -> BaseMachineMemory:
    store.memory.lock("a")
    worker.force_unlock("a")
    return store.memory


def leased(memory: BaseMachineMemory, id: str = "a") -> Any:
    """Return a lease that nothing ends by itself."""
    lease = Lease(memory, id, 60.0, f"owner {CANARY}")
    assert lifecycle.take(lease)
    return lease


def evicted(store: Store, worker: Worker) -> Any:
    lease = leased(store.memory)
    worker.force_unlock("a")
    return lease


def attached(lease: Any, worker: Worker | None = None) -> Any:
    """Return a lease that has travelled; a worker meets it on its way, and ends it."""
    travelling = travel.attaching(lease.detach(), None)
    if worker:
        worker.force_unlock("a")
    lease = Lease(lease._memory, "a", travelling["ttl"], f"owner {CANARY}", token=travelling["token"])
    assert travelling["attempt"](lease)
    return lease


FENCE = {"fence": ANY}
CASES = [
    Case("read miss", {}, lambda store, _: store.memory.read("a")),
    Case("read hit", {}, lambda store, worker: (worker.write("a", {}), store.memory.read("a"))),
    Case("record miss", {}, lambda store, _: store.memory.record("a")),
    Case("record hit", {}, lambda store, worker: (worker.write("a", {}), store.memory.record("a"))),
    Case("write written", {"bytes": 8, "version": 1}, lambda store, _: store.memory.write("a", {"ä": 1})),
    Case("write written", {"bytes": 2, "version": 1, **FENCE}, lambda store, _: leased(store.memory).write({})),
    Case("commit written", {"bytes": 2, "version": 1, **FENCE}, lambda store, _: leased(store.memory).commit({})),
    Case("commit lost", FENCE, lambda *scene: evicted(*scene).commit({}), LockLost),
    Case("commit error", {}, lambda store, _: leased(store.memory).commit({"x": {1}}), InvalidData),
    Case("write lost", FENCE, lambda *scene: lost(*scene).write("a", {}), LockLost),
    Case("write not_held", {}, lambda *scene: held_by_worker(*scene).write("a", {}), LockNotHeld),
    Case("write conflict", {}, lambda store, _: store.memory.write("a", {}, expected_version=7), VersionConflict),
    Case("write error", {}, lambda store, _: store.memory.write("a", {"x": {1}}), InvalidData),
    Case("lock acquired", {"ttl": 60, "version": 0, **FENCE}, lambda store, _: store.memory.lock("a", ttl=60)),
    Case("lock denied", {"ttl": 60}, lambda *scene: held_by_worker(*scene).lock("a", ttl=60)),
    Case("claim miss", {}, lambda store, _: store.memory.claim().__enter__()),
    Case("renew renewed", {"ttl": 60, **FENCE}, lambda store, _: leased(store.memory).renew()),
    Case("renew lost", {}, lambda *scene: evicted(*scene).renew(), LockLost),
    Case("attach acquired", {"ttl": 60, "version": 0, **FENCE}, lambda store, _: attached(leased(store.memory))),
    Case("attach lost", {}, lambda *scene: attached(leased(scene[0].memory), scene[1]), LockLost),
    Case("unlock released", {}, lambda store, _: store.memory.unlock("a")),
    Case("unlock not_held", {}, lambda *scene: held_by_worker(*scene).unlock("a")),
    Case("cleanup removed", {}, lambda store, _: store.memory.cleanup("a")),
    Case("cleanup lost", {}, lambda *scene: lost(*scene).cleanup("a"), LockLost),
    Case("cleanup not_held", {}, lambda *scene: held_by_worker(*scene).cleanup("a"), LockNotHeld),
    Case("force_unlock released", {}, lambda *scene: held_by_worker(*scene).force_unlock("a")),
    Case("force_unlock not_held", {}, lambda store, _: store.memory.force_unlock("a")),
    Case("holder hit", {}, lambda *scene: held_by_worker(*scene).holder("a")),
    Case("holder miss", {}, lambda store, _: store.memory.holder("a")),
    Case("held_locks hit", {}, lambda store, _: list(store.memory.held_locks())),
    Case("find hit", {}, lambda store, _: list(store.memory.find())),
    Case("children hit", {}, lambda store, _: store.memory.children("a")),
    Case("tree hit", {}, lambda store, _: store.memory.tree("a")),
    Case("purge_expired_locks purged", {}, lambda store, _: store.memory.purge_expired_locks()),
    Case("purge_machines purged", {}, lambda store, _: store.memory.purge_machines(status="done", idle=0)),
]


@each_backend
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.called)
def test_a_span_says_what_an_operation_came_to(store: Store, worker: Worker, told: Told, case: Case) -> None:
    with told.tracer.start_as_current_span("caller") as caller:
        if case.refusal:
            with pytest.raises(case.refusal):
                case.act(store, worker)
        else:
            case.act(store, worker)
    *_, span, _ = told.spans()
    operation, outcome = case.called.split()

    assert span.name == f"machine_memory.{operation}"
    assert dict(span.attributes or {}) == {
        **about(store),
        **system(store),
        "machine_memory.operation": operation,
        "machine_memory.outcome": outcome,
        **{f"machine_memory.{name}": value for name, value in case.details.items()},
        **({"error.type": "InvalidData"} if outcome == "error" else {}),
    }
    assert span.kind == SpanKind.CLIENT
    assert span.parent == caller.get_span_context()
    assert span.status.status_code == (StatusCode.ERROR if outcome == "error" else StatusCode.UNSET)
    assert len(span.links) == (outcome == "denied")
    assert span.events == ()


def test_no_operation_is_left_out() -> None:
    source = "".join(path.read_text() for path in Path(telemetry.__file__).parent.glob("*.py"))
    pairs = re.findall(r'(?:steps\(|self\._read[(,])\s*"(\w+)"(?: if release else "(\w+)")?', source)
    assert {name for pair in pairs for name in pair if name} == {case.called.split()[0] for case in CASES}


def test_the_fence_that_is_told_is_that_of_the_lease(store: Store, told: Told) -> None:
    lease = leased(store.memory)
    lease.write({})
    lease.renew()
    lease.commit({})
    assert [attribute(span, "fence") for span in told.spans()] == [lease.fence] * 4


class TestFailure:
    @contextmanager
    def breaking(self, store: Any) -> Iterator[tuple[BaseMachineMemory, Callable[[], Any]]]:
        """Yield a memory, and what breaks its store."""

        def fail(*args: Any) -> None:
            raise OperationalError(CANARY)

        if store.name == "sqlite":
            with ExitStack() as stack:
                connection = connections[store.alias]
                yield store.memory, lambda: stack.enter_context(connection.execute_wrapper(fail))
            return
        with store.through_proxy() as (memory, proxy):
            memory.read("warm up")
            yield memory, lambda: (store.hang_up(memory), proxy.refuse())

    def test_tells_its_kind(self, shared_store: Any, told: Told) -> None:
        with self.breaking(shared_store) as (memory, break_store):
            memory._reads._retrying.sleep = lambda seconds: None
            with memory.lease("a") as lease:
                text = leased(memory, "b").detach()
                break_store()
                told.forget()
                tried, fence = {"attempts": 3}, {"fence": lease.fence}
                calls: list[tuple[str, dict[str, int], Callable[[], Any]]] = [
                    ("read", tried, lambda: memory.read("b")),
                    ("record", tried, lambda: memory.record("b")),
                    ("write", {}, lambda: memory.write("b", {})),
                    ("lock", {}, lambda: memory.lock("b")),
                    ("claim", {}, memory.claim().__enter__),
                    ("cleanup", {}, lambda: memory.cleanup("b")),
                    ("force_unlock", {}, lambda: memory.force_unlock("b")),
                    ("write", fence, lambda: lease.write({})),
                    ("renew", {}, lease.renew),
                    ("commit", fence, lambda: lease.commit({})),
                    ("attach", {}, lambda: memory.attach(text).__enter__()),
                    ("holder", tried, lambda: memory.holder("b")),
                    ("children", tried, lambda: memory.children("b")),
                    ("tree", tried, lambda: memory.tree("b")),
                    ("held_locks", tried, lambda: list(memory.held_locks())),
                    ("find", tried, lambda: list(memory.find())),
                    ("purge_expired_locks", {}, memory.purge_expired_locks),
                    ("purge_machines", {}, lambda: memory.purge_machines(status="done", idle=0)),
                ]
                with told.tracer.start_as_current_span("caller") as caller:
                    for _, _, call in calls:
                        with pytest.raises(MachineMemoryError):
                            call()
                    assert memory.unlock("b") is False
                spans = told.spans()[:-1]
        expected = [*((operation, details) for operation, details, _ in calls), ("unlock", {})]

        assert {operation for operation, _ in expected} == {case.called.split()[0] for case in CASES}
        kind = "OperationalError" if isinstance(shared_store, DatabaseStore) else shared_store.no_answer
        for span, (operation, details) in zip(spans, expected, strict=True):
            assert dict(span.attributes or {}) == {
                **about(shared_store),
                **system(shared_store),
                "machine_memory.operation": operation,
                "machine_memory.outcome": "error",
                "error.type": kind,
                **{f"machine_memory.{name}": value for name, value in details.items()},
            }
            assert span.parent == caller.get_span_context()
            assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
            assert (span.links, span.events) == ((), ())
            assert CANARY not in span.to_json()

    def test_tells_how_often_a_read_was_tried(self, server: Any, told: Told) -> None:
        with self.breaking(server) as (memory, break_store):
            break_store()
            memory._reads._retrying.sleep = lambda seconds: None
            with pytest.raises(MachineMemoryError):
                memory.read("a")

        assert attribute(told.last(), "attempts") == 3
        assert told.points("read.retries") == [(2, about(server))]


class TestContention:
    def test_a_denied_lock_links_to_the_holders(self, store: Store, worker: Worker, told: Told) -> None:
        with told.tracer.start_as_current_span("the holder's request") as request:
            store.memory.lock("a")
        holders = told.spans()[0]
        worker.lock("a")

        (link,) = told.last().links
        assert position(link.context) == position(holders.context)
        assert link.context.trace_id == request.get_span_context().trace_id
        assert told.last().context and told.last().context.trace_id != link.context.trace_id

    def test_a_takeover_links_to_the_evicted(self, store: Store, worker: Worker, told: Told) -> None:
        for _ in range(3):
            worker.lock("a")
            store.expire("a")
        first, second, third = told.spans()

        assert first.links == ()
        assert [position(link.context) for link in second.links] == [position(first.context)]
        assert [position(link.context) for link in third.links] == [position(second.context)]
        assert told.points("lock.takeovers") == [(2, about(store))]

    @pytest.mark.parametrize("end", ["release", "force_unlock", "commit", "purge_expired_locks"])
    def test_a_lease_that_was_ended_is_not_taken_over(self, store: Store, worker: Worker, told: Told, end: str) -> None:
        lease = leased(store.memory)
        if end == "commit":
            lease.commit({})
        elif end == "release":
            lease.release()
        elif end == "purge_expired_locks":
            store.expire("a")
            store.memory.purge_expired_locks()
        else:
            store.memory.force_unlock("a")
        worker.lock("a")

        assert told.last().links == ()
        assert told.points("lock.takeovers") == []

    def test_a_holder_that_nobody_recorded_is_not_linked_to(
        self, store: Store, worker: Worker, other: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker.lock("a")
        told = Told(monkeypatch)
        store.memory.lock("a")
        store.expire("a")
        other.lock("a")

        assert told.outcomes() == ["lock denied", "lock acquired"]
        assert [span.links for span in told.spans()] == [(), ()]
        assert told.points("lock.takeovers") == [(1, about(store))]

    def test_what_the_trace_column_holds_cannot_harm(self, database: DatabaseStore, told: Told) -> None:
        Worker(database.memory).lock("a")
        database.rows.update(lease_trace="no traceparent")
        assert database.memory.lock("a") is False
        assert told.last().links == ()

    def test_a_lock_is_denied_also_where_its_holder_cannot_be_asked_for(
        self, server: Any, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(id: str) -> None:
            raise server.memory.store.failures[0](CANARY)

        monkeypatch.setattr(server.memory.store, "holder_trace", fail)
        Worker(server.memory).lock("a")
        assert server.memory.lock("a") is False
        assert told.last().links == ()

    def test_costs_no_question_where_nothing_is_recorded(self, shared_store: Store) -> None:
        Worker(shared_store.memory).lock("a")
        with shared_store.asked() as denial:
            shared_store.memory.lock("a")
        with pytest.MonkeyPatch.context() as monkeypatch:
            Told(monkeypatch)
            with shared_store.asked() as recorded:
                shared_store.memory.lock("a")
        assert len(recorded) == len(denial) + 1


@each_backend
class TestLog:
    @pytest.mark.parametrize("told_ids", [False, True])
    def test_has_one_line_for_a_refused_write(
        self, store: Store, caplog: pytest.LogCaptureFixture, told_ids: bool
    ) -> None:
        memory, name = store.new_memory(telemetry_ids=told_ids), "'a\\n'" if told_ids else "a machine"
        lease = leased(memory, "a\n")
        with pytest.raises(LockNotHeld):
            memory.cleanup("a\n")
        memory.force_unlock("a\n")
        for call in (lease.write, lease.commit):
            with pytest.raises(LockLost):
                call({})
        with pytest.raises(VersionConflict):
            memory.write("a\n", {}, expected_version=3)

        assert [(record.levelname, record.message) for record in caplog.records] == [
            ("WARNING", f"refused to clean up {name}: not_held"),
            ("WARNING", f"refused to write {name}: lost"),
            ("WARNING", f"refused to write {name}: lost"),
            ("WARNING", f"refused to write {name}: conflict"),
        ]

    def test_has_one_line_for_a_takeover(self, store: Store, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
        worker.lock("a")
        store.expire("a")
        with store.memory.lease("a") as lease:
            assert caplog.messages == [f"took over a machine from a lease that expired (fence {lease.fence})"]

    def test_has_no_line_where_all_is_well(
        self, store: Store, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "machine_memory")
        with store.memory.lease("a") as lease:
            worker.lock("a")
            lease.write({})
            lease.renew()
            lease.commit({})
        store.memory.read("a")
        store.memory.cleanup("a")
        assert caplog.messages == []

    def test_is_written_within_the_span(self, store: Store, worker: Worker, told: Told) -> None:
        """So that whoever puts trace and span ids on the lines of a project puts them on these."""
        spans: list[SpanContext] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                spans.append(trace.get_current_span().get_span_context())

        handler, logger = Handler(), logging.getLogger("machine_memory")
        logger.addHandler(handler)
        try:
            worker.lock("a")
            store.expire("a")
            store.memory.lock("a")
            with pytest.raises(LockLost):
                worker.write("a", {})
        finally:
            logger.removeHandler(handler)

        assert told.outcomes() == ["lock acquired", "lock acquired", "write lost"]
        assert spans == [span.get_span_context() for span in told.spans()[1:]]


class TestMetrics:
    def test_have_these_names_units_and_attributes(self, store: Store, told: Told) -> None:
        with store.memory.lease("a") as lease:
            lease.commit({"n": 1})
        metrics = told.metrics()

        assert {(name, metric.unit) for name, metric in metrics.items()} == {
            ("machine_memory.operation.duration", "s"),
            ("machine_memory.lock.hold.duration", "s"),
            ("machine_memory.lock.held", "{lease}"),
            ("machine_memory.data.size", "By"),
        }
        for instrument in telemetry.INSTRUMENTS:
            for point in metrics[instrument.name].data.data_points if instrument.name in metrics else ():
                assert list(getattr(point, "explicit_bounds", [])) == (instrument.boundaries or [])
                assert set(point.attributes) | {"error.type"} == {*about(store), *instrument.attributes, "error.type"}
        points = metrics["machine_memory.operation.duration"].data.data_points
        assert [dict(point.attributes) for point in points] == [
            {**about(store), "machine_memory.operation": "lock", "machine_memory.outcome": "acquired"},
            {**about(store), "machine_memory.operation": "commit", "machine_memory.outcome": "written"},
        ]
        (held,) = metrics["machine_memory.lock.hold.duration"].data.data_points
        assert (held.count, dict(held.attributes)) == (1, about(store))
        (size,) = metrics["machine_memory.data.size"].data.data_points
        assert (size.sum, dict(size.attributes)) == (len('{"n":1}'), about(store))

    def test_count_the_leases_of_this_process_that_are_live(self, store: Store, told: Told) -> None:
        kept = [leased(store.memory, id) for id in "abc"]
        assert told.points("lock.held") == [(3, about(store))]
        kept[0].release()
        kept[1].commit({})
        assert told.points("lock.held") == [(1, about(store))]
        kept[2]._term = replace(kept[2]._term, ends_at=0.0)
        assert told.points("lock.held") == [(0, about(store))]

    def test_ask_no_store_for_the_leases(self, shared_store: Store, told: Told) -> None:
        shared_store.memory.lock("a")
        with shared_store.asked() as questions:
            told.metrics()
        assert questions == []

    def test_count_leases_while_others_come_and_go(self, told: Told) -> None:
        memory, stopped = SimpleMachineMemory(), False

        def work() -> None:
            while not stopped:
                for id in "abcdefgh":
                    memory.lock(id)
                for id in "abcdefgh":
                    memory.unlock(id)

        with in_thread(work):
            try:
                counts = [told.points("lock.held") for _ in range(200)]
            finally:
                stopped = True
        assert all(0 <= count <= 8 for points in counts for count, _ in points)

    def test_count_refusals_by_outcome(self, store: Store, worker: Worker, told: Told) -> None:
        memory = lost(store, worker)
        for _ in range(2):
            with pytest.raises(LockLost):
                memory.write("a", {})
        with pytest.raises(VersionConflict):
            memory.write("b", {}, expected_version=3)
        assert told.points("write.refusals") == [
            (2, {**about(store), "machine_memory.outcome": "lost"}),
            (1, {**about(store), "machine_memory.outcome": "conflict"}),
        ]

    def test_tell_of_what_was_claimed(self, store: Store, told: Told) -> None:
        for id in "ab":
            store.memory.write(id, {}, wake_at=timedelta(0))
        with store.memory.claim(ttl=60, max_attempts=1) as batch:
            assert len(batch) == 2
            claim = told.last()
            batch.commit({"a": {}})
        assert claim.name == "machine_memory.claim"
        assert dict(claim.attributes or {}) == {
            **about(store),
            **system(store),
            "db.operation.batch.size": 2,
            "machine_memory.operation": "claim",
            "machine_memory.outcome": "acquired",
            "machine_memory.ttl": 60,
            "machine_memory.granted": 2,
            "machine_memory.denied": 0,
        }
        assert told.points("wake.exhausted") == [(2, about(store))]
        (lag,) = told.metrics()["machine_memory.wake.lag"].data.data_points
        assert (lag.count, dict(lag.attributes)) == (2, about(store))
        assert 0 <= lag.sum < 5

    def test_do_not_grow_with_the_machines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tracer, told = telemetry.tracer, Told(monkeypatch)
        monkeypatch.setattr(telemetry, "tracer", tracer)  # As many spans would fill the memory.
        memory = SimpleMachineMemory()

        def series() -> int:
            return sum(len(metric.data.data_points) for metric in told.metrics().values())

        def work(first: int, last: int) -> None:
            for number in range(first, last):
                with memory.lease(f"order-{number}") as lease:
                    lease.commit({"n": number})

        work(0, 10)
        before = series()
        work(10, 1_000)
        for number in range(1_000, 20_000):
            memory.write(f"order-{number}", {"n": number})
        assert series() == before + 1 == 6


@asynchronous
async def test_spans_of_tasks_are_children_of_the_callers(store: Store, told: Told) -> None:
    with told.tracer.start_as_current_span("request") as request:
        async with store.memory.alease("a") as lease:
            await lease.acommit({})
        await asyncio.gather(store.memory.aread("a"), store.memory.aread("b"))
    *spans, _ = told.spans()

    assert sorted(told.outcomes()) == ["commit written", "lock acquired", "read hit", "read miss"]
    assert [span.parent for span in spans] == [request.get_span_context()] * 4


def test_a_memory_of_the_settings_tells_its_alias(told: Told) -> None:
    memories["simple"].read("a")
    assert attribute(told.last(), "alias") == "simple"


class TestBatches:
    IDS = [f"m{number:02}" for number in range(14)]

    def test_a_step_for_many_is_one_span(self, shared_store: Any, told: Told, caplog: pytest.LogCaptureFixture) -> None:
        memory, other = shared_store.memory, Worker(shared_store.memory)
        with told.tracer.start_as_current_span("the worker that died"):
            for id in self.IDS[:12]:
                other.lock(id)
                shared_store.expire(id)
        Worker(memory).lock(self.IDS[12])
        told.forget()
        caplog.clear()
        with memory.leases(self.IDS) as batch:
            other.force_unlock(self.IDS[0])
            told.forget()
            with pytest.raises(CommitRefused):
                batch.commit({id: {"n": 1} for id in self.IDS if id in batch})
            (commit,) = told.spans()

        assert commit.attributes and commit.attributes["db.operation.batch.size"] == 13
        assert [attribute(commit, name) for name in ("operation", "outcome", "refused")] == ["commit", "written", 1]
        assert told.points("lock.takeovers") == [(12, about(shared_store))]
        assert told.points("write.refusals") == [(1, {**about(shared_store), "machine_memory.outcome": "lost"})]
        assert len([text for text in caplog.messages if "took over" in text or "refused" in text]) == 2

    def test_its_links_are_few(self, shared_store: Any, told: Told) -> None:
        with told.tracer.start_as_current_span("the worker that died"):
            for id in self.IDS:
                Worker(shared_store.memory).lock(id)
                shared_store.expire(id)
        told.forget()
        with shared_store.memory.leases(self.IDS):
            (lock,) = told.spans()
        assert [attribute(lock, name) for name in ("outcome", "granted", "denied")] == ["acquired", 14, 0]
        assert len(lock.links) == 10


class TestPrivacy:
    def test_ids_are_told_where_the_settings_allow_it(self, store: Store, told: Told) -> None:
        store.new_memory(telemetry_ids=True).read("order-42")
        assert attribute(told.last(), "id") == "order-42"

    def test_a_step_for_many_has_none(self, store: Store, told: Told) -> None:
        memory = store.new_memory(telemetry_ids=True)
        with memory.leases(["a"]):
            list(memory.find())
        memory.purge_expired_locks()
        assert not any("machine_memory.id" in (span.attributes or {}) for span in told.spans())

    def test_a_span_ends_also_where_the_connection_cannot_be_left(
        self, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = SimpleMachineMemory()
        monkeypatch.setattr(memory.store, "read", lambda id: 1 / 0)
        monkeypatch.setattr(memory.store, "start_afresh", lambda: dict[str, int]()["nothing"])
        with pytest.raises(KeyError):
            memory.read("a")
        assert told.last().name == "machine_memory.read"

    def test_nothing_that_is_the_users_is_told(
        self, shared_store: Any, told: Told, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.DEBUG, "machine_memory")
        monkeypatch.setattr("machine_memory.core.lifecycle.describe_owner", lambda: f"owner {CANARY}")
        memory, id = shared_store.new_memory(), f"id {CANARY}"
        memory.read(id)
        with memory.lease(id, keep_alive=True) as lease:
            lease.write({CANARY: CANARY})
            lease.renew(0.3)
            worker = Worker(memory)
            worker.lock(id)
            memory.force_unlock(id)
            shared_store.wait_until(lambda: lease._over)
            with pytest.raises(LockLost):
                lease.commit({CANARY: CANARY})
        worker.lock(id)
        shared_store.expire(id)
        memory.lock(id)
        tokens = {lease._token, shared_store.lease_of(id)[0]}
        self.fail(memory, monkeypatch)
        for call in (lambda: memory.read(id), lambda: memory.write(id, {CANARY: 1}), lambda: memory.cleanup(id)):
            with pytest.raises(MachineMemoryError):
                call()  # type: ignore[no-untyped-call]
        with memory.lease(f"another {CANARY}", ttl=1.5, keep_alive=True) as lease:
            shared_store.wait_until(lambda: lease._over)
        assert memory.unlock(id) is False

        spans = " ".join(span.to_json() for span in told.spans())
        metrics = repr([metric.to_json() for metric in told.metrics().values()])
        assert "machine_memory.lock" in spans
        assert len(caplog.records) == 6, caplog.text
        for secret in (CANARY, *tokens):
            assert secret not in spans
            assert secret not in metrics
            assert secret not in caplog.text

    def fail(self, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the driver quote what it was given, from now on."""

        def failing(*args: Any, **kwargs: Any) -> None:
            raise memory.store.failures[0](f"the driver quotes {CANARY}")

        for primitive in ("read", "write", "remove", "release", "release_each", "renew_each"):
            monkeypatch.setattr(memory.store, primitive, failing)


def test_without_an_sdk_nothing_is_kept() -> None:
    memory = SimpleMachineMemory()
    with memory.lease("a") as lease:
        lease.commit({})
    with telemetry.tracer.start_span("x") as span:
        assert not span.is_recording()


def test_the_table_of_instruments_is_that_of_the_code() -> None:
    _, table = METRICS.split("| further attributes | buckets | |\n| --- | --- | --- | --- | --- |\n")
    for line, instrument in zip(table.splitlines(), telemetry.INSTRUMENTS, strict=False):
        name, unit, description, attributes, boundaries = instrument
        further = ", ".join(f"`{attribute}`" for attribute in attributes)
        buckets = ", ".join(f"{boundary:,}" for boundary in boundaries or ())
        assert line == f"| `{name}` | `{unit}` | {further} | {buckets} | {description} |"
    assert len(table.partition("\n\n")[0].splitlines()) == len(telemetry.INSTRUMENTS)
