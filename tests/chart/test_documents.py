"""Schema, values.yaml, README and versions cannot drift from the model, nor from one another."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from dozlab import values
from dozlab.chart_values import ChartValues
from tests.chart.render import EVERYTHING, HERE, NODE, REPOSITORY, SESSION

SCHEMA = json.loads((SESSION / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((SESSION / "values.yaml").read_text())
README = (SESSION / "README.md").read_text()


def paths(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path.rpartition(".")[2] not in ("requests", "limits"):
            yield from paths(value, f"{path}.")
        else:
            yield path


@pytest.mark.parametrize("chart", [SESSION, NODE], ids=lambda chart: str(chart.name))
def test_schemas_are_draft_7_and_closed(chart: Any) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema)

    def check(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                assert node.get("additionalProperties") is False, path
            for key, value in node.items():
                check(value, f"{path}/{key}")

    check(schema, "")


def test_the_schema_takes_defaults_and_everything() -> None:
    validator = jsonschema.Draft7Validator(SCHEMA)
    validator.validate(DEFAULTS)
    validator.validate(yaml.safe_load(EVERYTHING.read_text()))
    validator.validate({})  # a user's own file names only what differs: editors check that with the same schema
    jsonschema.Draft7Validator(json.loads((NODE / "values.schema.json").read_text())).validate(
        yaml.safe_load((NODE / "values.yaml").read_text())
    )


def test_the_schemas_patterns_are_plain() -> None:
    """Go's regular expressions know no look-around and no \\Z."""
    assert not re.search(r'"pattern": "[^"]*(\(\?[=!<]|\\\\Z)', (SESSION / "values.schema.json").read_text())


def test_the_model_says_what_values_yaml_says() -> None:
    parsed = values.parse(DEFAULTS)
    assert isinstance(parsed, ChartValues)
    assert parsed == ChartValues()


def test_one_file_serves_both_worlds() -> None:
    """`dozlab up -f` takes a chart's values file, and the values for one machine are the same."""
    parsed = values.parse(yaml.safe_load(EVERYTHING.read_text()))
    assert (parsed.vm.cpu_count, parsed.vm.memory, parsed.session.id) == (4, 4096, "s-42")


def test_every_value_of_the_readme_exists_and_the_other_way_round() -> None:
    table = README.split("<!-- values: generated", 1)[1].split("<!-- values end -->")[0]
    rows = re.findall(r"^\| `([A-Za-z0-9.]+)` \|", table, re.MULTILINE)
    assert rows == list(dict.fromkeys(rows))
    assert set(rows) == set(paths(DEFAULTS))


def test_every_value_that_the_text_names_exists() -> None:
    known = set(paths(DEFAULTS))
    groups = {path[: match.start()] for path in known for match in re.finditer(r"\.", path)}
    texts = [README, (SESSION / "templates/NOTES.txt").read_text(), (SESSION / "templates/_validate.tpl").read_text()]
    for text in texts:
        for name in re.findall(r"--set(?:-string)? '?([A-Za-z.]+)(?:\[\d\])?(?:\.name)?=", text):
            assert name in known | groups or name.rsplit(".", 1)[0] in known, name


ORIGINAL = """
session.id session.userId labels rootfs.imageUrl rootfs.diskSize network.gatewayIp network.vmIp network.tapDevice
initContainers.rootfs.image initContainers.rootfs.tag initContainers.rootfs.resources.limits
initContainers.network.image initContainers.network.tag initContainers.network.resources.requests
firecracker.image firecracker.tag firecracker.resources.limits firecracker.livenessProbe.periodSeconds
firecracker.readinessProbe.failureThreshold vm.cpuCount vm.memory terminal.image terminal.tag terminal.resources.limits
terminal.livenessProbe.path terminal.readinessProbe.path terminal.livenessProbe.initialDelaySeconds codeServer.image
codeServer.tag codeServer.password codeServer.workspaceReadOnly codeServer.resources.requests
codeServer.livenessProbe.path codeServer.readinessProbe.timeoutSeconds service.type service.ports.vscode
service.ports.terminal service.ports.ssh volumes.kernels.sizeLimit volumes.vmData.sizeLimit
volumes.vscodeData.sizeLimit volumes.sharedConfig.sizeLimit restartPolicy nameOverride fullnameOverride
""".split()


def test_every_value_of_the_original_chart_is_there() -> None:
    assert set(ORIGINAL) <= set(paths(DEFAULTS))
    assert DEFAULTS["terminal"]["livenessProbe"]["path"] == "/health"
    assert DEFAULTS["terminal"]["readinessProbe"]["path"] == "/ready"


def test_versions_agree() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    for chart in (SESSION, NODE):
        meta = yaml.safe_load((chart / "Chart.yaml").read_text())
        assert (meta["version"], meta["appVersion"], meta["kubeVersion"]) == (version, version, ">=1.20.0-0")


def test_the_node_charts_file_sets_what_exists() -> None:
    known = yaml.safe_load((NODE / "values.yaml").read_text())
    given = yaml.safe_load((HERE / "node.yaml").read_text())
    assert set(given) <= set(known)
    assert set(json.loads((NODE / "values.schema.json").read_text())["properties"]) == {*known, "global"}
