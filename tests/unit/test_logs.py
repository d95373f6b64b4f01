"""Lines of the log: one JSON object each, whoever writes them, without secrets and without what could break a line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from complex_system.local.logs import logging_to
from complex_system.logs import REQUEST, JsonFormatter, message_of
from complex_system.settings import Settings

SECRET = "hunter2-hunter2"


class Request:
    id = "press-4/17"


def line(**fields: Any) -> dict[str, Any]:
    """What the formatter makes of a record."""
    record = logging.makeLogRecord({"name": "x", "levelno": logging.INFO, "levelname": "INFO", **fields})
    text = JsonFormatter(Settings(api_key=SECRET), "ml_serving", "host-1").format(record)
    assert text.isascii()
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_has_time_level_logger_message_service_and_replica() -> None:
    found = line(msg="Saved %d records", args=(500,), created=datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC).timestamp())
    assert found == {
        "time": "2026-03-01T12:00:00.250Z", "level": "INFO", "logger": "x", "message": "Saved 500 records",
        "service": "ml_serving", "replica": "host-1",
    }  # fmt: skip


def test_many_lines_stay_one_and_are_kept() -> None:
    text = "first\nsecond\u2028third \x1b[31m \ud800"
    assert line(msg="%s", args=(text,))["message"] == text


def test_an_exception_is_a_field_and_secrets_are_hidden() -> None:
    try:
        raise ValueError(f"http://user:{SECRET}@host")
    except ValueError:
        found = line(msg=f"failed with {SECRET}", exc_info=sys.exc_info())
    assert found["message"] == "failed with ***"
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: http://user:***@host")


def test_request_and_record_are_fields() -> None:
    token = REQUEST.set(Request())
    try:
        found = line(msg="no", record_key="A7")
    finally:
        REQUEST.reset(token)
    assert (found["request_id"], found["record_key"]) == ("press-4/17", "A7")


def test_the_message_is_found_in_both_formats() -> None:
    assert message_of('{"message": "broken: no"}') == "broken: no"
    for text in ("broken: no", "{not JSON", "", '{"other": 1}'):
        assert message_of(text) == text


def test_the_log_of_a_run_is_json_too(tmp_path: Path) -> None:
    with logging_to(tmp_path / "runner.log", Settings(log_format="json")):
        logging.getLogger("x").warning("two\nlines")
    [found] = [json.loads(text) for text in (tmp_path / "runner.log").read_text().splitlines()]
    assert (found["message"], found["service"]) == ("two\nlines", "runner")


PROGRAM = """
import sys, logging, warnings
from complex_system import logs
logs.keep_early()
logging.warning("before it is known how")
import fastiot.core
from complex_system.settings import Settings
logs.set_up(Settings(), "tester")
assert "opentelemetry" not in sys.modules
print("printed\\nas two lines")
sys.stderr.write("10 %\\r100 %\\n")
sys.stderr.write("without an end")
sys.stderr.write(" yet\\n")
warnings.warn("old")
logging.getLogger("uvicorn.error").info("Started")
sys.stderr.fileno()
"""


@pytest.mark.parametrize(
    ("end", "level", "last"),
    [
        ("raise SystemExit('tester: no such table')", "WARNING", "tester: no such table"),
        ("{}['x']", "CRITICAL", "The process ends: 'x'"),
    ],
)
def test_everything_that_a_process_writes_is_a_line(tmp_path: Path, end: str, level: str, last: str) -> None:
    environment = {
        "COMPLEX_SYSTEM_LOG_FORMAT": "json",
        "FASTIOT_CONFIG_DIR": str(tmp_path),
        "PYTHONPATH": ":".join(sys.path),
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM + end], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    lines = [json.loads(text) for text in (ended.stdout + ended.stderr).splitlines()]
    messages = [found["message"] for found in lines]
    assert messages[0] == "before it is known how"
    for message in ("printed", "as two lines", "100 %", "without an end yet", "Started"):
        assert message in messages
    assert any("UserWarning: old" in message for message in messages)
    assert (lines[-1]["message"], lines[-1]["level"]) == (last, level)
    assert {found["service"] for found in lines} == {"tester"}
    if level == "CRITICAL":
        assert "KeyError" in lines[-1]["exception"]
