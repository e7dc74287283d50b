"""OpenTelemetry set up: each request, its operations and their SQL or Redis commands in one trace."""

import os
from sqlite3 import dbapi2

from django.db import connections
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.dbapi import wrap_connect
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)

RESOURCE = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "machine-memory-example")})
"""Where the rest of the settings is: OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT."""


def instrument(exporter: SpanExporter | None = None) -> None:
    """Export to ``exporter`` and where OpenTelemetry's variables say; to the console, where that is nowhere."""
    provider = TracerProvider(resource=RESOURCE)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        metrics.set_meter_provider(MeterProvider([reader], resource=RESOURCE))
    elif exporter is None:
        exporter = ConsoleSpanExporter(formatter=lambda span: f"{span.to_json(indent=None)}\n")
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument()
    RedisInstrumentor().instrument()
    wrap_connect("sqlite3", dbapi2, "connect", "sqlite")  # type: ignore[arg-type]  # It means a module, or its name.
    connections.close_all()  # The next ones are traced.
