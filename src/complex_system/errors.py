"""Every error that the system raises on purpose, each with a stable ``code``.

The arguments of an error are plain JSON values, so that an error survives the broker: the receiver rebuilds it with
``ERRORS_BY_CODE[code](*args)``. What an error means for a reply or an HTTP status is decided where replies are made
(``messaging.replies``, ``serving.rest``), not here.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ComplexSystemError(Exception):
    """Root of all errors of this project. The first argument is a sentence for the person who reads it."""

    code: ClassVar[str] = "internal"

    @property
    def message(self) -> str:
        """The sentence that says what went wrong and, where it can be told, what to do."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return self.message


class InternalError(ComplexSystemError):
    """A fault of ours. Its sender learns that it happened, the log has the rest."""

    code = "internal"


class InvalidRequestError(ComplexSystemError):
    """The request as a whole is not what its subject or endpoint takes."""

    code = "invalid_request"


class InvalidRecordError(ComplexSystemError):
    """Records that are not as the data set declares them.

    Args:
        message: One sentence with the first fault.
        faults: One dict a fault, with ``record`` (position in the batch), ``id`` (or None), ``field`` and ``problem``.
    """

    code = "invalid_record"

    def __init__(self, message: str, faults: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message, faults or [])

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The faults that were found, at most the first twenty."""
        return list(self.args[1])


class UnauthorizedError(ComplexSystemError):
    """The caller has not shown that it may ask."""

    code = "unauthorized"


class DeclarationError(ComplexSystemError):
    """The data set's declaration (``dataset.yaml``) contradicts itself or cannot be read."""

    code = "invalid_declaration"


class SourceFileError(ComplexSystemError):
    """The file to replay cannot be read, or its columns are not those of the data set."""

    code = "invalid_source_file"


class DescribeError(ComplexSystemError):
    """No declaration can be made of a file; the sentence says what to change."""

    code = "cannot_describe"


class TooLargeError(ComplexSystemError):
    """A request or a reply is larger than the broker or the server takes; the sentence says how to split it."""

    code = "too_large"


class StoreUnavailableError(ComplexSystemError):
    """The database does not answer. Nothing was acknowledged; the same request may be sent again."""

    code = "store_unavailable"


class NobodyListensError(ComplexSystemError):
    """No service answers the subject at the moment."""

    code = "nobody_listens"


class ReplyTimeoutError(ComplexSystemError):
    """A service took the request and did not answer in time. Whether it was carried out is not known."""

    code = "reply_timeout"


class BusyError(ComplexSystemError):
    """So many requests wait for the service that it takes no more. Nothing was done; the same request may be sent again."""

    code = "busy"


class NoModelError(ComplexSystemError):
    """There is no model to serve yet."""

    code = "no_model"


class UnknownModelError(ComplexSystemError):
    """No model of that name, version or alias is known."""

    code = "unknown_model"


class ModelRefusedError(ComplexSystemError):
    """A model exists and must not be served: another pipeline version, a damaged or missing twin."""

    code = "model_refused"


class NotEnoughDataError(ComplexSystemError):
    """Too few labelled records to train or to compare with."""

    code = "not_enough_data"


class TrainingFailedError(ComplexSystemError):
    """A training ended without a model."""

    code = "training_failed"


class TrackingUnavailableError(ComplexSystemError):
    """MLflow or Weights & Biases cannot be reached or refuses."""

    code = "tracking_unavailable"


class TrackingRefusedError(TrackingUnavailableError):
    """MLflow or Weights & Biases answers and refuses; the same request would be refused again."""

    code = "tracking_refused"


class StartError(ComplexSystemError):
    """A part of a local run could not be started; the sentence says what to install or to change."""

    code = "start_failed"


def _all_errors(root: type[ComplexSystemError]) -> list[type[ComplexSystemError]]:
    return [root, *(deeper for child in root.__subclasses__() for deeper in _all_errors(child))]


ERRORS_BY_CODE: dict[str, type[ComplexSystemError]] = {
    error.code: error for error in _all_errors(ComplexSystemError) if error is not ComplexSystemError
}
