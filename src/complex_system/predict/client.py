"""A service with a REST interface, found on this machine or by its address, and asked by a program outside its deployment."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec
from pydantic import ValidationError

from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.errors import (
    ComplexSystemError,
    InvalidRecordError,
    RecordFault,
    StartError,
    TooLargeError,
    UnauthorizedError,
)
from complex_system.local.folder import is_running
from complex_system.local.plan import API_KEY_FILE
from complex_system.settings import Settings

T = TypeVar("T")

SERVICES = ("ml_serving_mlflow", "ml_serving")
"""The services that predict, the first that a deployment has."""
MONITORING = ("ml_monitoring",)
"""The service that has the predictions of the past."""

_SECONDS = 120.0
_KEY = "X-API-Key"
_SHOWN = 300
_CHUNK = 1 << 20


class PredictError(ComplexSystemError):
    """The predictions cannot be made or written; the message says what to do."""

    code = "predict"


@dataclass(frozen=True)
class Service:
    """A service, and the key of its REST interface where it has one."""

    url: str
    api_key: str = ""


class _RunningService(msgspec.Struct):
    url: str = ""


class _Status(msgspec.Struct):
    services: dict[str, _RunningService]


def running_service(runs: Mapping[str, Path], api_key: str = "", services: tuple[str, ...] = SERVICES) -> Service | None:
    """Return a service of the deployment that runs on this machine; None where none does.

    Args:
        runs: Folders of local runs by deployment.
        api_key: The key to use; by default the one that a locked run keeps in its folder.
        services: Which service, the first that the deployment has.

    Raises:
        StartError: Several run.
    """
    running = {name: folder for name, folder in runs.items() if is_running(folder)}
    if len(running) > 1:
        raise StartError(f"The deployments {', '.join(running)} run at the moment; name one with --deployment.")
    for name, folder in running.items():
        try:
            status = msgspec.json.decode((folder / "status.json").read_bytes(), type=_Status)
        except (OSError, msgspec.MsgspecError) as error:
            raise StartError(f"'{name}' is starting: {folder / 'status.json'} does not say yet where it serves.") from error
        urls = [status.services[service].url for service in services if service in status.services]
        if not any(urls):
            raise StartError(f"'{name}' runs without {' or '.join(services)}; name one with --url.")
        kept = folder / API_KEY_FILE
        return Service(next(filter(None, urls)), api_key or (kept.read_text("utf-8").strip() if kept.is_file() else ""))
    return None


def service_of(environment: Mapping[str, str], services: tuple[str, ...] = SERVICES) -> Service:
    """Return the service that containers publish on this machine, by a deployment's variables.

    Raises:
        StartError: A variable is not valid.
    """
    try:
        settings = Settings.of(environment)
    except ValidationError as error:
        raise StartError(f"The settings are not valid: {error}") from error
    port = settings.monitoring_port if services == MONITORING else settings.serving_mlflow_port
    return Service(f"http://127.0.0.1:{port}", settings.api_key)


class Model(msgspec.Struct, frozen=True):
    """The model that answered."""

    name: str
    version: str

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} v{self.version}"


class Warned(msgspec.Struct, frozen=True):
    """How many values of a column lie outside of its range and were taken all the same."""

    field: str
    count: int


class Answer(msgspec.Struct, frozen=True):
    """One prediction for each record."""

    predictions: list[float]
    model: Model
    warnings: tuple[Warned, ...] = ()


class _Fault(msgspec.Struct):
    record: int
    id: str | None
    field: str | None
    problem: str


class _Error(msgspec.Struct):
    message: str
    code: str = ""
    faults: list[_Fault] = []


class _Failure(msgspec.Struct):
    error: _Error


class RestClient:
    """Asks one service, over a connection that is kept open."""

    def __init__(self, url: str, api_key: str = "", ca: Path | None = None, kind: str = "serving service") -> None:
        """Make a client; it connects with its first request.

        Args:
            url: Address of the service, such as http://127.0.0.1:8001.
            api_key: The key of its REST interface; empty where it asks for none.
            ca: Certificates that its own must be signed by; the system's by default.
            kind: What is asked, for messages.

        Raises:
            PredictError: The address or the certificates cannot be used.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.scheme not in ("http", "https"):
            raise PredictError(f"--url takes an address such as http://127.0.0.1:8001, not '{url}'.")
        self.url = url.rstrip("/")
        self._kind = kind
        self._path = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json", **({_KEY: api_key} if api_key else {})}
        if parts.scheme == "http":
            self._connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
            return
        try:
            context = ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise PredictError(f"--ca: {ca} cannot be read as certificates: {error.strerror or error}.") from error
        self._connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)

    def declaration(self) -> Dataset:
        """Return the declaration of the records that the champion takes.

        Raises:
            PredictError: The service does not answer, or has no model yet.
            DeclarationError: The service is of a release with other declarations.
        """
        return Dataset.restored(self._decoded(self._asked("GET", "/declaration"), dict[str, Any]))

    def predict(self, records: list[Record]) -> Answer:
        """Return the predictions of records.

        Raises:
            InvalidRecordError: Some are not as declared; names the first 20 faults.
            TooLargeError: There are more than one request may have.
            PredictError: The service does not answer, or not with predictions.
        """
        answer: Answer = self._decoded(self._asked("POST", "/predict", msgspec.json.encode({"records": records})), Answer)
        if len(answer.predictions) != len(records):
            raise PredictError(f"{self.url} answered {len(answer.predictions)} predictions for {len(records)} records.")
        return answer

    def download(self, path: str, target: BinaryIO) -> int:
        """Copy the content of a path to a file, part by part; return the number of bytes.

        Raises:
            PredictError: The service does not answer, refuses, or ends before all is sent.
        """
        response = self._exchanged("GET", path, None, lambda response: response)
        if response.status != 200:
            self._refused(path, response.status, response.read())
        count = 0
        try:
            while part := response.read(_CHUNK):
                count += target.write(part)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise PredictError(
                f"{self.url} ended before all was sent; its log says why, such as a database that is away."
            ) from error
        return count

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _asked(self, method: str, path: str, body: bytes | None = None) -> bytes:
        status, content = self._exchanged(method, path, body, lambda response: (response.status, response.read()))
        if status != 200:
            self._refused(path, status, content)
        return content

    def _refused(self, path: str, status: int, content: bytes) -> NoReturn:
        try:
            error = msgspec.json.decode(content, type=_Failure).error
        except msgspec.MsgspecError:
            error = _Error(content[:_SHOWN].decode(errors="replace"))
        if error.faults:
            faults = [RecordFault(record=f.record, id=f.id, field=f.field, problem=f.problem) for f in error.faults]
            raise InvalidRecordError(error.message, faults)
        if status == 413:
            raise TooLargeError(error.message)
        if status == 401:
            raise UnauthorizedError(
                f"{self.url} asks for its API key: name its --deployment, or set COMPLEX_SYSTEM_API_KEY in the environment."
            )
        hint = f" Is it a {self._kind} of this release?" if status == 404 else ""
        raise PredictError(f"{self.url}{path} answered {status}: {error.message}{hint}")

    def _exchanged(self, method: str, path: str, body: bytes | None, take: Callable[[http.client.HTTPResponse], T]) -> T:
        """Send a request and take its response; once more where the server has closed a connection that it kept open."""
        for is_reused in (self._connection.sock is not None, False):
            try:
                self._connection.request(method, self._path + path, body, self._headers)
                return take(self._connection.getresponse())
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if is_reused and not isinstance(error, TimeoutError):
                    continue
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                if isinstance(error, ssl.SSLCertVerificationError):
                    reason = f"{error.verify_message}; --ca names the certificate of the authority that signed its own"
                advice = "Start one (`fiot run mongo`), or name its address with --url."
                raise PredictError(f"No {self._kind} answers at {self.url}: {reason}. {advice}") from error
        raise AssertionError

    def _decoded(self, content: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise PredictError(f"{self.url} answered something else than a {self._kind}: {error}.") from error
