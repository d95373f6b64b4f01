"""All errors that the system raises intentionally, each with a stable ``code``.

The arguments of an error are JSON values, so an error survives the broker: the receiver rebuilds it with
``ERRORS_BY_CODE[code](*args)``. What an error means for a reply or an HTTP status is decided where replies are made
(``messaging.things``, ``http.responses``), not here.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypedDict

from complex_system import __version__


class RecordFault(TypedDict):
    """What is wrong with one record; ``record`` is its position in the batch, ``field`` is None where the whole record is wrong."""

    record: int
    id: Any
    field: str | None
    problem: str


def how_to_install(extra: str) -> str:
    """Return how the packages of an extra are installed: in a clone, and where our wheel was installed, which is on no index."""
    return f"`make install` in a clone, or `pip install './complex_system-{__version__}-py3-none-any.whl[{extra}]'`"


class ComplexSystemError(Exception):
    """Root of all errors of this project. The first argument is the message for the reader."""

    code: ClassVar[str] = "internal"

    @property
    def message(self) -> str:
        """What went wrong and, if known, what to do."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return self.message


class InternalError(ComplexSystemError):
    """A fault of ours. The sender learns that it happened; the log has the details."""

    code = "internal"


class InvalidRequestError(ComplexSystemError):
    """The request as a whole does not fit its subject or endpoint."""

    code = "invalid_request"


class InvalidRecordError(ComplexSystemError):
    """Records do not match the declared data set.

    Args:
        message: A sentence with the first fault.
        faults: All faults that were found.
    """

    code = "invalid_record"

    def __init__(self, message: str, faults: list[RecordFault] | None = None) -> None:
        super().__init__(message, faults or [])

    @property
    def faults(self) -> list[RecordFault]:
        """The faults found, at most the first twenty."""
        return list(self.args[1])


class UnauthorizedError(ComplexSystemError):
    """The caller is not authenticated."""

    code = "unauthorized"


class ForbiddenError(ComplexSystemError):
    """A page of another origin makes a browser send the request."""

    code = "forbidden"


class MisdirectedError(ComplexSystemError):
    """The request names a host that this server is not known by."""

    code = "misdirected"


class UnsupportedMediaTypeError(ComplexSystemError):
    """The body is of a type that is not taken here."""

    code = "unsupported_media_type"


class DeclarationError(ComplexSystemError):
    """The data set's declaration (``dataset.yaml``) contradicts itself or cannot be read."""

    code = "invalid_declaration"


class SourceFileError(ComplexSystemError):
    """The file to replay cannot be read, or its columns are not those of the data set."""

    code = "invalid_source_file"


class SourceTableError(ComplexSystemError):
    """The SQL table to read, or its columns, are not those of the settings and the data set; the message says what to change."""

    code = "invalid_source_table"


class SourceUnavailableError(ComplexSystemError):
    """The server that a source reads, or the database with its table, does not answer or refuses; it is asked again."""

    code = "source_unavailable"


class DescribeError(ComplexSystemError):
    """No declaration can be made from a file; the message says what to change."""

    code = "cannot_describe"


class BackupError(ComplexSystemError):
    """A backup cannot be made, or cannot be restored; the message says what to do."""

    code = "backup"


class TooLargeError(ComplexSystemError):
    """A request or a reply exceeds the limit of the broker or the server; the message says how to split it."""

    code = "too_large"


class StoreUnavailableError(ComplexSystemError):
    """The database does not answer, or cannot do it at the moment. Nothing was acknowledged; the same request may be sent again.

    Attributes are known only in the process where the error was made.

    Attributes:
        explained: Whether the reason is one that no record can cause.
        answered: Whether the database has answered, so that it may answer a ping and write something smaller.
    """

    code = "store_unavailable"

    def __init__(self, message: str, *, explained: bool = True, answered: bool = False) -> None:
        super().__init__(message)
        self.explained = explained
        self.answered = answered


class NobodyListensError(ComplexSystemError):
    """No service answers the subject at the moment."""

    code = "nobody_listens"


class ReplyTimeoutError(ComplexSystemError):
    """A service received the request and did not answer in time. It is not known whether it was carried out."""

    code = "reply_timeout"


class BusyError(ComplexSystemError):
    """Too many requests wait for the service. Nothing was done; the same request may be sent again."""

    code = "busy"


class NotHolderError(ComplexSystemError):
    """This replica is not, or not for certain, the one that may act: it holds no lease."""

    code = "not_holder"


class NoModelError(ComplexSystemError):
    """There is no model to serve yet."""

    code = "no_model"


class UnknownModelError(ComplexSystemError):
    """No model of that name, version or alias is known."""

    code = "unknown_model"


class ModelRefusedError(ComplexSystemError):
    """A model exists but must not be served: other pipeline version, damaged or missing ONNX model."""

    code = "model_refused"


class UnsupportedByModelError(ComplexSystemError):
    """The model that is served does not carry what the request needs; a model that is trained now does."""

    code = "unsupported_by_model"


class NotEnoughDataError(ComplexSystemError):
    """There are too few labelled records for training or comparison."""

    code = "not_enough_data"


class TrainingFailedError(ComplexSystemError):
    """A training ended without a model."""

    code = "training_failed"


class ClusterUnavailableError(ComplexSystemError):
    """The Ray cluster that trains does not answer, refuses the connection, or Ray is not installed."""

    code = "cluster_unavailable"


class TrackingUnavailableError(ComplexSystemError):
    """MLflow or Weights & Biases is unreachable or refuses the request."""

    code = "tracking_unavailable"


class TrackingRefusedError(TrackingUnavailableError):
    """MLflow or Weights & Biases refuses the request, and would refuse it again."""

    code = "tracking_refused"


class StartError(ComplexSystemError):
    """A part of a local run could not be started; the message says what to install or change."""

    code = "start_failed"


def _all_errors(root: type[ComplexSystemError]) -> list[type[ComplexSystemError]]:
    return [root, *(deeper for child in root.__subclasses__() for deeper in _all_errors(child))]


ERRORS_BY_CODE: dict[str, type[ComplexSystemError]] = {
    error.code: error for error in _all_errors(ComplexSystemError) if error is not ComplexSystemError
}


def error_text(error: ComplexSystemError) -> str:
    """Return all that is wrong as one text, for protocols without a list of faults."""
    if not isinstance(error, InvalidRecordError) or len(error.faults) < 2:
        return error.message
    return joined_lines(fault_lines(error.faults))


def fault_lines(faults: list[RecordFault]) -> list[str]:
    """Return a line for each fault, with record, field and problem."""
    return [
        f"record {f['record']}{', ' + repr(f['field']) if f['field'] is not None else ''}: {f['problem']}" for f in faults
    ]


def joined_lines(lines: list[str]) -> str:
    """Return lines as one text that begins with their number."""
    return f"{len(lines)} faults: " + "; ".join(lines) + "."
