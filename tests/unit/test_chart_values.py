"""chart_values.py and the schema made of it: what only the chart has, and what one machine makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from dozlab import values
from dozlab.chart_values import ChartValues
from dozlab.chart_values.containers import Firecracker, HttpProbe
from dozlab.lib.errors import BadUsage
from tests.unit.docs.markdown import REPOSITORY


def test_a_chart_value_is_accepted_and_passed_over() -> None:
    parsed = values.parse({"service": {"type": "NodePort"}, "vm": {"cpuCount": "3"}, "terminal": {"tag": 2}})
    assert parsed.vm.cpu_count == 3
    assert parsed.terminal.enabled


def test_a_machines_values_do_not_load_the_charts() -> None:
    """They cost 60 ms at start."""
    code = "import sys; from dozlab import values; values.parse({}); print('dozlab.chart_values' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"servce": {}}, "servce: unknown value; did you mean service?"),
        ({"terminal": {"tags": "x"}}, "terminal.tags: unknown value; did you mean tag?"),
        ({"service": {"prots": {}}}, "service.prots: unknown value; did you mean ports?"),
    ],
)
def test_a_mistyped_chart_value_is_found_on_one_machine_too(raw: dict[str, Any], line: str) -> None:
    with pytest.raises(BadUsage) as caught:
        values.parse(raw)
    assert str(caught.value).splitlines() == [line]


def test_a_wrong_chart_value_is_told_with_the_machines_own_faults() -> None:
    with pytest.raises(BadUsage) as caught:
        values.parse({"service": {"type": "Odd"}, "vm": {"cpuCount": 99}})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["vm.cpuCount", "service.type"]


@pytest.mark.parametrize("good", ["500m", "2", 2, 1.5, "3Gi", "1e9", None])
def test_quantities(good: Any) -> None:
    ChartValues.model_validate({"firecracker": {"resources": {"limits": {"cpu": good}}}})


@pytest.mark.parametrize("bad", ["lots", "3 Gi", True, "-1", "3gb"])
def test_no_quantities(bad: Any) -> None:
    with pytest.raises(ValidationError):
        ChartValues.model_validate({"firecracker": {"resources": {"limits": {"memory": bad}}}})


def test_defaults_fit_together() -> None:
    chart = ChartValues()
    assert chart.firecracker.resources.limits["memory"] == "3Gi"
    assert chart.vm.memory + 640 <= 3 * 1024
    assert chart.terminal.liveness_probe.path == "/health"
    assert chart.terminal.readiness_probe.path == "/ready"
    assert not chart.firecracker.liveness_probe.enabled
    startup = Firecracker().startup_probe
    assert startup.period_seconds * startup.failure_threshold == 600
    assert HttpProbe().path == "/"


def test_the_schema_takes_text_for_numbers_and_has_the_limits() -> None:
    schema = json.loads((REPOSITORY / "charts/dozlab-session/values.schema.json").read_text())
    cpus = schema["properties"]["vm"]["properties"]["cpuCount"]
    assert cpus["type"] == ["integer", "string"]
    assert (cpus["minimum"], cpus["maximum"], cpus["default"]) == (1, 32, 2)
    assert "password" not in json.dumps(schema["properties"]["vm"])
    assert "$ref" not in json.dumps(schema)


def test_whole_numbers_are_no_truth_values() -> None:
    with pytest.raises(BadUsage, match=r"vm\.cpuCount: not a whole number"):
        values.parse({"vm": {"cpuCount": True}})
