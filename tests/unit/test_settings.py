"""The settings: every variable is documented, and the documentation tells the truth."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path

import pytest
from fastiot.env import env_basic
from pydantic import ValidationError

from complex_system.local.servers import SERVERS
from complex_system.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"


OF_FASTIOT = {
    "FASTIOT_LOG_LEVEL": (
        "INFO",
        "FastIoT's own: least severe level that is logged: DEBUG, INFO, WARNING, ERROR or CRITICAL",
    )
}
"""What FastIoT reads by itself, so that our settings need not."""


def _variables() -> dict[str, tuple[str, str]]:
    """Default and description of every variable of the class."""
    fields = Settings.__fields__.values()
    return {
        next(iter(f.field_info.extra["env_names"])).upper(): (str(f.default), f.field_info.description or "") for f in fields
    }


def _example() -> dict[str, tuple[str, str]]:
    """Default and description of every variable of the example, which has them commented out."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    found = {}
    for before, line in itertools.pairwise(lines):
        if match := re.fullmatch(r"#(\w+)=(.*)", line):
            found[match[1]] = (match[2], before.removeprefix("# "))
    return found


def test_the_example_lists_every_variable_with_its_default_and_meaning() -> None:
    assert _example() == _variables() | OF_FASTIOT


def test_fastiots_own_variable_has_that_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTIOT_LOG_LEVEL", raising=False)
    assert logging.getLevelName(env_basic.log_level) == OF_FASTIOT["FASTIOT_LOG_LEVEL"][0]


def test_the_variables_of_a_local_run_are_settings_with_the_same_defaults() -> None:
    """``local/`` works on environments that it makes for others, so it reads them by name."""
    known = _variables()
    assert {server.host_variable for server in SERVERS.values()} <= set(known)
    for server in SERVERS.values():
        assert known[server.port_variable][0] == str(server.default_port)


def test_no_module_but_the_settings_reads_the_environment() -> None:
    # The runner hands the environment on to its children, and MLflow and W&B are configured through it: that is writing. Ray's own
    # variables for TLS are read in one place, to say what is wrong with them.
    reading = re.compile(r"os\.getenv|environ\.get\(|environ\[[^]]+\](?! =)")
    sources = [p for p in (ROOT / "src").rglob("*.py") if not {"settings", "local", "ray_head.py"} & set(p.parts)]
    offenders = [str(p.relative_to(ROOT)) for p in sources if reading.search(p.read_text(encoding="utf-8"))]
    assert offenders == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="immutable"):
        Settings().nats_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(("name", "value"), [("COMPLEX_SYSTEM_RECORDS", "-1"), ("FASTIOT_NATS_PORT", "x")])
def test_a_value_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()
