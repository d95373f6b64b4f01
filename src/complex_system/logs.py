"""How a process logs: FastIoT's lines without control characters, or one JSON object a line for programs that collect logs.

In JSON everything that Python code writes is such a line: our own messages, those of FastIoT, uvicorn and MLflow, warnings, what a
library prints, and the error with which a process ends.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol

from typing_extensions import override

from complex_system import tracing
from complex_system.domain.keys import new_key
from complex_system.settings import Settings
from complex_system.terminal import PrintableFormatter

HIDDEN = "***"
"""Stands for a password or a key."""
_SHORTEST_SECRET = 6
"""Characters; hiding a shorter one would hide parts of words."""


REQUEST_ID = "x-request-id"
"""Header with the id of a request, over HTTP, NATS and gRPC alike."""
_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


def request_id(sent: str | None) -> str:
    """Return the id that a sender gave its request if it can stand in a header, else one of ours."""
    return sent if sent and _ID.fullmatch(sent) else new_key()


class HasId(Protocol):
    """A request."""

    @property
    def id(self) -> str:
        """Its id, which a response over HTTP carries."""


class Identified:
    """A request whose id is found, or made, when it is asked for: most requests write no line."""

    def __init__(self, headers: Mapping[str, str] | None) -> None:
        self._headers = headers
        self._id = ""

    @property
    def id(self) -> str:
        """The id in its header, which Go's clients write ``X-Request-Id``, else one of ours."""
        if not self._id:
            found = {name.lower(): value for name, value in (self._headers or {}).items()}
            self._id = request_id(found.get(REQUEST_ID))
        return self._id


REQUEST: ContextVar[HasId | None] = ContextVar("request", default=None)
"""The request that is being answered."""


class _Kept(logging.Handler):
    """Keeps records until it is known how to write them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


_early = _Kept()


def keep_early() -> None:
    """Keep what FastIoT logs while it is imported, until :func:`set_up`; its import replaces the handler by its own."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(_early)


def replica_name(settings: Settings) -> str:
    """Return what people call this process among several of one service."""
    return settings.service_id or f"{socket.gethostname()}-{os.getpid()}"


def set_up(settings: Settings, service: str) -> None:
    """Log as the settings say; may be called again when they have changed."""
    root = logging.getLogger()
    for handler in root.handlers:
        if settings.log_format == "json":
            handler.setFormatter(JsonFormatter(settings, service, replica_name(settings)))
        elif not isinstance(handler.formatter, PrintableFormatter):
            handler.setFormatter(PrintableFormatter(handler.formatter or logging.Formatter()))
    if settings.log_format == "json" and not isinstance(sys.stderr, _Lines):
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        sys.stdout = _Lines(sys.stdout, "stdout", logging.INFO)
        sys.stderr = _Lines(sys.stderr, "stderr", logging.WARNING)
    while _early.records:
        root.handle(_early.records.pop(0))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object in ASCII; line feeds are escaped, so that it is one line.

    A line about one record, or first of all about one, has its key: ``extra={"record_key": key}``.
    """

    def __init__(self, settings: Settings, service: str, replica: str) -> None:
        """Make a formatter.

        Args:
            settings: Their passwords and keys are hidden, whoever wrote them.
            service: snake_case name of the service.
            replica: Name of this process among several of the service.
        """
        super().__init__()
        self._about = {"service": service, "replica": replica}
        values = [getattr(settings, name) for name, field in Settings.__fields__.items() if not field.field_info.repr]
        self._secrets = sorted((each for each in values if len(each) >= _SHORTEST_SECRET), key=len, reverse=True)

    @override
    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._without_secrets(record.getMessage()),
            **self._about,
        }
        if (request := REQUEST.get()) is not None:
            content["request_id"] = request.id
        if (key := getattr(record, "record_key", None)) is not None:
            content["record_key"] = str(key)
        if trace := tracing.trace_id():
            content["trace_id"] = trace
        if record.exc_info:
            content["exception"] = self._without_secrets(self.formatException(record.exc_info))
        if record.stack_info:
            content["stack"] = self.formatStack(record.stack_info)
        return json.dumps(content)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def message_of(line: str) -> str:
    """Return the message of a line of a log, in either format."""
    if line.startswith("{"):
        try:
            return str(json.loads(line)["message"])
        except (ValueError, KeyError, TypeError):
            pass
    return line


class _Lines(io.TextIOBase):
    """Standard output or error whose lines are logged: what libraries print, and what Python itself reports."""

    def __init__(self, behind: Any, name: str, level: int) -> None:
        super().__init__()
        self._behind, self._level = behind, level
        self._log = logging.getLogger(name)
        self._local = threading.local()

    @override
    def write(self, text: str) -> int:
        state = self._local.__dict__
        if state.get("logging"):  # logging itself reports that it cannot write, for instance on a full disk
            return len(text)
        *lines, state["rest"] = f"{state.get('rest', '')}{text}".split("\n")
        state["logging"] = True
        try:
            for line in lines:
                shown = line.rpartition("\r")[2].rstrip()  # of a progress bar, the last state
                if shown:
                    self._log.log(self._level, "%s", shown)
        finally:
            state["logging"] = False
        return len(text)

    @override
    def writable(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        return int(self._behind.fileno())  # faulthandler and child processes write there


def _log_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    logging.getLogger().critical("The process ends: %s", error, exc_info=(kind, error, where))
