"""values.py: what is accepted, what is refused and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab import values
from dozlab.lib.errors import BadUsage
from dozlab.lib.names import SESSION_ID

URL = {"rootfs": {"imageUrl": "file:///x.ext4"}}


def faults(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(BadUsage) as caught:
        values.parse(raw)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_defaults_are_a_whole_session() -> None:
    parsed = values.parse({})
    assert (parsed.vm.cpu_count, parsed.vm.memory, parsed.rootfs.disk_size) == (2, 2048, "4G")


def test_numbers_may_be_quoted_as_in_the_original_chart() -> None:
    assert values.parse({"vm": {"cpuCount": "4", "memory": "1024"}}).vm.cpu_count == 4


def test_all_faults_at_once_each_with_its_path() -> None:
    lines = faults({"vm": {"memroy": 3, "cpuCount": "x"}, "rootfs": {"diskSize": "lots"}, "nonsense": 1})
    assert [line.split(":")[0] for line in lines] == ["rootfs.diskSize", "vm.cpuCount", "vm.memroy", "nonsense"]
    assert "vm.memroy: unknown value; did you mean memory?" in lines


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"rootfs": {"diskSize": "63M"}}, "rootfs.diskSize: 63M is too small; at least 64.0 MiB"),
        (
            {"rootfs": {"diskSize": "5G"}},
            (
                "volumes.vmData.sizeLimit: 5Gi cannot hold rootfs.diskSize 5G and volumes.workspace.sizeLimit 512Mi"
                " and terminal.recording.sizeLimit 64Mi"
            ),
        ),
        (
            {"rootfs": {"diskSize": "5G"}, "terminal": {"recording": {"enabled": False}}},
            "volumes.vmData.sizeLimit: 5Gi cannot hold rootfs.diskSize 5G and volumes.workspace.sizeLimit 512Mi",
        ),
        (
            {"terminal": {"recording": {"sizeLimit": "64k"}}},
            "terminal.recording.sizeLimit: 64k is too small; at least 1.0 MiB",
        ),
        ({"network": {"vmIp": "172.16.1.2"}}, "network.vmIp: 172.16.1.2 must be another address of 172.16.0.0/24"),
        (
            {"codeServer": {"password": "CHANGE-ME-INSECURE-PASSWORD"}},
            "codeServer.password: this is the original chart's placeholder; choose one",
        ),
        (
            {"session": {"id": "Not_A_Label"}},
            "session.id: must be a DNS label: 1 to 40 of a-z, 0-9 and -, not first or last a - (got 'Not_A_Label')",
        ),
    ],
)
def test_refused_in_these_words(raw: dict[str, Any], line: str) -> None:
    assert faults(raw) == [line]


def test_a_password_is_never_shown() -> None:
    assert "hunter2" not in "".join(faults({"codeServer": {"password": ["hunter2"]}}))
    assert "hunter2" not in repr(values.parse({"codeServer": {"password": "hunter2"}}))


def test_set_expressions() -> None:
    assert values.parse_set("vm.memory=4096") == {"vm": {"memory": 4096}}
    assert values.parse_set("a.b={1,x}") == {"a": {"b": [1, "x"]}}
    assert values.parse_set("a=true") == {"a": True}
    assert values.parse_set("a=x=y") == {"a": "x=y"}
    for bad in ("a", "=1", "a..b=1"):
        with pytest.raises(BadUsage):
            values.parse_set(bad)


@given(st.text())
def test_any_text_as_an_id_is_accepted_or_refused_in_one_line(text: str) -> None:
    try:
        parsed = values.parse({"session": {"id": text}})
    except BadUsage as error:
        assert str(error).startswith("session.id: ")
    else:
        assert SESSION_ID.match(parsed.session.id)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_tree_is_values_or_bad_usage(tree: Any) -> None:
    raw = tree if isinstance(tree, dict) else {"vm": tree}
    try:
        values.parse(raw)
    except BadUsage as error:
        assert str(error)


def test_merge_follows_helm() -> None:
    assert values.merge({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}}) == {"a": {"b": 1, "c": [2]}}
