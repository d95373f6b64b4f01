"""The connection to MLflow: a client that gives up in seconds, its errors as ours, experiments, addresses and metric names.

``mlflow`` takes seconds to import, so it is imported inside functions only. Everything here blocks; services call it in
threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any

from complex_system.background import importing
from complex_system.errors import TrackingRefusedError, TrackingUnavailableError

_DEFAULTS = {
    # MLflow's own defaults make a caller wait for minutes until it learns that the server is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_LONGEST_NAME = 250
"""Characters of a metric's name."""
_REFUSED = re.compile(r"[^/\w.\- :]+")

_importing = threading.Lock()


def load_mlflow() -> Any:
    """Import ``mlflow`` quietly and with limits that suit a service; the environment may set other limits.

    Threads may call it at the same time: one imports, the others wait. The imports within ``mlflow`` are circular, so a second
    thread would find it incomplete.
    """
    with _importing:
        return _imported()


@cache
def _imported() -> Any:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        with importing():
            import mlflow
    except BaseException:
        # Python removes the package that failed but keeps its submodules; with these, a second try cannot succeed.
        for name in [name for name in sys.modules if name == "mlflow" or name.startswith("mlflow.")]:
            del sys.modules[name]
        raise
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def open_client(tracking_uri: str) -> Any:
    """Return an ``mlflow.MlflowClient``. Nothing is sent yet."""
    return load_mlflow().MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def is_refusal(error: Exception, code: str) -> bool:
    """Return whether MLflow's answer was the error ``code``, e.g. ``RESOURCE_DOES_NOT_EXIST``."""
    return getattr(error, "error_code", None) == code


def without_secrets(text: str) -> str:
    """Return an address, or a text with addresses, without users and passwords."""
    # Up to the last "@" of the word: a password that was not encoded may contain "/" and "@".
    return re.sub(r"//\S*@", "//", text)


def without_paths(text: str) -> str:
    """Return a text without the names of files on the host that wrote it; addresses keep their paths."""
    return re.sub(r"(?<![\w/.:@-])(?:file:/*)?/(?:[\w.@+-]+/)+[\w.@+-]*", "(a file)", text)


def literal(text: str) -> str:
    """Return a text with the quotes that it needs in a search in MLflow."""
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}"


def run_url(tracking_uri: str, experiment: str, run: str) -> str:
    """Return the address of a run in MLflow's pages, below the server's path where it has one."""
    return f"{without_secrets(tracking_uri).rstrip('/')}/#/experiments/{experiment}/runs/{run}"


@contextmanager
def translated(tracking_uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow raises into ``TrackingUnavailableError``, or ``TrackingRefusedError`` where the request is at fault.

    Args:
        tracking_uri: Where the server is.
        doing: What fails, for the message: "logging the run".
    """
    load_mlflow()
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException, ConnectionError, TimeoutError) as error:
        where = f"MLflow at {without_secrets(tracking_uri)}"
        reason = without_paths(without_secrets(" ".join(str(error).split())))[:300]
        if _is_final(error):
            raise TrackingRefusedError(f"{where} refuses {doing}: {reason}") from error
        if _status(error):
            raise TrackingUnavailableError(f"{where} failed at {doing}: {reason}") from error
        raise TrackingUnavailableError(f"{where} does not answer ({doing}).") from error


def _status(error: Any) -> int:
    """Return the HTTP status of an error; 0 when there was no answer."""
    import requests
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return int(error.response.status_code)
    return 0


def _is_final(error: Exception) -> bool:
    """Return whether the same request would fail again: server or client say that the request is at fault."""
    code = getattr(error, "error_code", "")
    busy = _status(error) in (408, 429)
    return (400 <= _status(error) < 500 and not busy) or code in (
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
        "PERMISSION_DENIED",
    )


def server_time(tracking_uri: str) -> datetime:
    """Return the time by the tracking server's clock, to compare with times that it wrote; by this host's where there is no server.

    Every answer of an HTTP server has its time, to the second.
    """
    load_mlflow()
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if tracking_uri.startswith("http"):
        with translated(tracking_uri, "asking for the time"):
            told = http_request(get_default_host_creds(tracking_uri), "/health", "GET").headers.get("Date")  # type: ignore[no-untyped-call]
        with suppress(TypeError, ValueError):
            return parsedate_to_datetime(told)
    return datetime.now(UTC)


def experiment_id(client: Any, name: str) -> str:
    """Return the id of an experiment; make it when it is missing, also when two services do so at the same time."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except Exception as error:
            if not is_refusal(error, "RESOURCE_ALREADY_EXISTS"):
                raise
            experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id)


def metric_name(name: str) -> str:
    """Return the name under which a metric is logged.

    MLflow accepts letters of any alphabet, digits, ``_ - . : /`` and spaces, and only names that are normalized paths. An accepted
    name stays as it is. In any other, refused characters become ``_``, and 6 hex digits of a hash keep names apart that would
    then be equal: ``data/psi/Temp. [°C]`` becomes ``data/psi/Temp. _C_-86864a``.

    Args:
        name: Words of this software with ``/`` between them and, at the end, a column's name.
    """
    made = _REFUSED.sub("_", name)
    path = posixpath.normpath(made)
    if made == name and path == name and len(name) <= _LONGEST_NAME and not path.startswith(("/", "..")) and path != ".":
        return name
    if path != made:
        made = "/".join(part if part.strip(".") else "_" for part in made.split("/"))
    return f"{made[: _LONGEST_NAME - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def log_files(client: Any, run_id: str, folder: str, files: Mapping[str, bytes]) -> None:
    """Log files into an artifact folder of a run; those that it has are replaced. The caller translates errors."""
    with tempfile.TemporaryDirectory() as local:
        for name, content in files.items():
            (Path(local) / name).write_bytes(content)
        client.log_artifacts(run_id, local, folder)
