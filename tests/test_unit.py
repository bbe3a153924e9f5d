"""The systemd unit takes from the program what it needs not."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNIT = (ROOT / "conf/systemd/registry-proxy.service").read_text(encoding="utf-8")
STATED = re.findall(r"^\| `(\w+=[^`]*)` \|", (ROOT / "docs/security.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("option", STATED)
def test_what_the_documentation_states_is_in_the_unit(option: str) -> None:
    """Each option in the table of docs/security.md stands in the unit as it stands there."""
    assert re.search(rf"^{re.escape(option)}$", UNIT, re.MULTILINE)


def test_the_table_states_what_matters() -> None:
    """User, capabilities, file system and system calls are in the table."""
    names = {option.partition("=")[0] for option in STATED}
    assert {"DynamicUser", "CapabilityBoundingSet", "ProtectSystem", "SystemCallFilter", "NoNewPrivileges"} <= names


def test_nothing_takes_it_back() -> None:
    """No option gives privileges, opens directories of the system, or runs as root."""
    for name in ("User", "Group", "ReadWritePaths", "BindPaths", "ExecStartPre", "PermissionsStartOnly", "Delegate"):
        assert not re.search(rf"^{name}=", UNIT, re.MULTILINE), name
    assert not re.search(r"^Exec\w+=[-@:]*[+!]", UNIT, re.MULTILINE)
