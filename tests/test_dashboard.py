"""The dashboard shows every instrument, by the names that Prometheus knows them by."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY

from machine_memory import BaseMachineMemory, LockLost
from machine_memory.backends.simple import SimpleStore
from machine_memory.core import telemetry
from tests.contract.stores import Clock

DASHBOARD: dict[str, Any] = json.loads((Path(__file__).parents[1] / "example_project/grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Return the names of the series that are exported, with those of their labels."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(telemetry, "instruments", telemetry.Instruments(provider.get_meter("machine_memory")))
    use_everything()
    try:
        series: dict[str, set[str]] = {}
        for family in REGISTRY.collect():
            for sample in family.samples:
                if sample.name.startswith("machine_memory"):
                    series.setdefault(sample.name, set()).update(sample.labels)
        return series
    finally:
        provider.shutdown()


def use_everything() -> None:
    """Let each instrument measure something."""

    class Failure(Exception):
        pass

    class Failing(SimpleStore):
        failures = (Failure,)
        failure: Failure | None = None

        def read(self, id: str) -> object:
            if self.failure:
                self.failure = None
                raise Failure
            return super().read(id)

        def may_read_again(self, failure: BaseException) -> bool:
            return True

        def release(self, id: str, *, token: str | None) -> bool:
            raise Failure

    clock = Clock()
    store = Failing(clock)
    memory = BaseMachineMemory(store)
    with memory.lease("a", ttl=60) as lease:
        lease.write({})
        memory.force_unlock("a")
        with pytest.raises(LockLost):
            lease.commit({})
    memory.lock("b")
    clock.now += 1000
    with memory.lease("b") as lease:
        lease.commit({})
    store.failure = Failure()
    memory.read("a")
    memory.write("c", {}, wake_at=timedelta(0))
    with memory.claim(max_attempts=1) as batch:
        batch.commit({"c": {}})


def test_every_name_in_an_expression_is_exported(exported: dict[str, set[str]]) -> None:
    for expression in EXPRESSIONS:
        names = set(re.findall(r"(machine_memory_\w+)\{", expression))
        labels = {label for name in names for label in exported[name]}
        by = {label for listed in re.findall(r"by \(([^)]*)\)", expression) for label in listed.split(", ")}
        assert names <= set(exported), expression
        assert by | set(re.findall(r"(\w+)=", expression)) <= labels, expression


def test_every_instrument_is_shown(exported: dict[str, set[str]]) -> None:
    for instrument in telemetry.INSTRUMENTS:
        name = instrument.name.replace(".", "_")
        series = [series for series in exported if series.startswith(name)]
        assert series, f"{instrument.name} was not measured"
        assert any(f"{one}{{" in expression for one in series for expression in EXPRESSIONS), instrument.name


def test_no_panel_lies_on_another() -> None:
    covered: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        covered |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
