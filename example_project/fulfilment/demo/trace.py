"""The trace of one order: its events come as requests, one while somebody has it, one after somebody died with it."""

import time
from collections import defaultdict
from contextvars import Context, copy_context

from django.core.management.base import CommandError
from django.test import Client, override_settings
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.text import Text
from rich.tree import Tree

from example_project.fulfilment.workflow import Fulfilment2
from example_project.tracing import instrument
from machine_memory import memory

ORDER = "traced-0001"
BRIEF = 0.05
"""Seconds of the lease of the worker that dies."""
TOLD = ("order.event", "http.status_code", "db.system", "machine_memory.outcome")
"""What the tree says of a span."""


# With DEBUG, Django asks SQLite to quote what it was asked: those questions are nobody's.
@override_settings(DEBUG=False, ALLOWED_HOSTS=["testserver"])
def trace_an_order() -> Tree:
    """Let one order come about, and return everything that was done for it."""
    memory.force_unlock(ORDER)
    memory.cleanup(ORDER)
    exporter = InMemorySpanExporter()
    instrument(exporter)
    tracer = trace.get_tracer("example_project")
    with tracer.start_as_current_span(f"order {ORDER}") as order:
        headers: dict[str, str] = {}
        inject(headers)
        for name in Fulfilment2.event_names():
            if name == "pick":
                with tracer.start_as_current_span("a slow worker"), memory.lease(ORDER):
                    _send(name, headers, expected=409)
            if name == "ship":
                with tracer.start_as_current_span("a worker that dies"):
                    copy_context().run(memory.lock, ORDER, ttl=BRIEF)
                time.sleep(BRIEF)
            _send(name, headers, expected=200)
    of_order = order.get_span_context().trace_id
    # The leases of the demo itself are renewed meanwhile, in traces of their own.
    return _tree([span for span in exporter.get_finished_spans() if span.context and span.context.trace_id == of_order])


def _send(name: str, headers: dict[str, str], *, expected: int) -> None:
    """Send an event as the outside world does, which knows nothing of what goes on here."""
    event = {"id": f"{ORDER}:{name}", "subject": ORDER, "name": name}
    response = Context().run(Client().post, "/events/", event, content_type="application/json", headers=headers)
    if response.status_code != expected:
        raise CommandError(f"The event {name} of {ORDER} was answered by {response.status_code}, not {expected}.")


def _tree(spans: list[ReadableSpan]) -> Tree:
    names = {span.context.span_id: span.name for span in spans if span.context}
    children: dict[int, list[ReadableSpan]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        children[span.parent.span_id if span.parent else 0].append(span)
    parents = {span.context.span_id: span.parent.span_id for span in spans if span.context and span.parent}

    def grow(branch: Tree, span: ReadableSpan) -> Tree:
        for link in span.links:
            relation = "held by" if _attribute(span, "machine_memory.outcome") == "denied" else "taken over from"
            branch.add(Text(f"→ {relation} {names[parents[link.context.span_id]]}", style="yellow"))
        for child in children[span.context.span_id if span.context else 0]:
            grow(branch.add(_line(child)), child)
        return branch

    (root,) = children[0]
    return grow(Tree(_line(root)), root)


def _line(span: ReadableSpan) -> Text:
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1_000_000
    line = Text(span.name, style="bold" if span.name.startswith("machine_memory.") else "")
    for detail in filter(None, (_attribute(span, name) for name in TOLD)):
        line.append(f"  {detail}", style="not bold cyan")
    return line.append(f"  {milliseconds:.1f} ms", style="not bold dim")


def _attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)
