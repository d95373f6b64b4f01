"""Predictions: what was predicted, what failed, and what the truth turned out to be."""

from __future__ import annotations

from typing import Any, Literal

from complex_system.domain.records import Record
from complex_system.protocol.base import ArrowPage, Event, Message, Request

Origin = Literal["live", "own", "probe", "trial"]
"""Who asked for a prediction: a client; this system for stored records, to watch the model; this system for simulated ones; or
somebody who tries the model with made-up records, whose predictions are not announced."""
ORIGINS: dict[str, Origin] = {"live": "live", "own": "own", "probe": "probe", "trial": "trial"}
ORIGIN_NAMES: dict[Origin, str] = {"live": "", "own": "origin:own", "probe": "origin:probe", "trial": "origin:trial"}
"""Names of the Things that ask for predictions; under any other name a client asks."""
ORIGIN_LABELS = {
    "live": "live predictions",
    "probe": "probes",
    "own": "own requests",
    "": "requests whose origin was not recorded",
}
"""What people call the predictions for each; what says most about the model in use comes first. Empty: of an earlier release."""
ORIGIN_HEADER = b"x-prediction-origin"
"""Header of a request over REST that says ``own``, ``probe`` or ``trial``; without it a client asks."""


ExplanationMethod = Literal["exact", "sampled"]
"""Whether Shapley values are of all coalitions of columns, or of a sample of their orders."""


class PredictedRecord(Message, frozen=True, kw_only=True):
    """One prediction.

    Attributes:
        id: Key of the record; None where the request gave none.
        record: The raw record as it came.
        prediction: In the target's unit.
        distance: From the model's training data: above 1, it is further away than 99 % of these are from each other. None where it was
            not measured: of other requests than those that ask for warnings it is for a sample.
    """

    id: str | None
    record: Record
    prediction: float
    distance: float | None = None


class ShadowPredictions(Message, frozen=True, kw_only=True):
    """What a challenger predicts for the same request, or why it predicts nothing.

    Attributes:
        model: Registered name.
        version: Registered version.
        framework: Its framework.
        milliseconds: Duration of the prediction.
        predictions: In the order of the request, in the target's unit.
        error: Why there are none; empty where there are.
    """

    model: str
    version: str = ""
    framework: str = ""
    milliseconds: float = 0.0
    predictions: tuple[float, ...] = ()
    error: str = ""


class PredictionMade(Message, frozen=True, kw_only=True):
    """The predictions of one request.

    Attributes:
        service: Name of the service that predicted.
        model: Registered name.
        version: Registered version.
        pipeline_version: Pipeline version of the model.
        milliseconds: Duration of the request in the service.
        predictions: One a record, in the order of the request.
        shadows: What challengers predict for it.
        origin: Who asked.
        half_width: Of the model's 90 % intervals, in the target's unit; None where it has none.
        calibrated: Independent records that these were calibrated with; 0 where that is not known.
    """

    service: str
    model: str
    version: str
    pipeline_version: str = ""
    milliseconds: float = 0.0
    predictions: tuple[PredictedRecord, ...] = ()
    shadows: tuple[ShadowPredictions, ...] = ()
    origin: Origin = "live"
    half_width: float | None = None
    calibrated: int = 0


class PredictionFailed(Message, frozen=True, kw_only=True):
    """Requests for predictions that failed, at most one event a second.

    Attributes:
        service: Name of the service.
        failures: Number of requests by stable error code.
    """

    service: str
    failures: dict[str, int]


class Truth(Message, frozen=True, kw_only=True):
    """The measured value of a record.

    Attributes:
        id: Key of the record.
        truth: In the target's unit.
    """

    id: str
    truth: float


class TruthKnown(Message, frozen=True, kw_only=True):
    """Measured values of records that were predicted.

    Attributes:
        truths: One a record.
    """

    truths: tuple[Truth, ...]


class ExplainRequest(Message, frozen=True, kw_only=True):
    """Asks why the champion predicts what it predicts.

    Attributes:
        records: Raw records, at most 100.
    """

    records: list[Any]


class ExplainedPrediction(Message, frozen=True, kw_only=True):
    """One prediction, and what each raw column contributes to it.

    Attributes:
        prediction: In the target's unit.
        contributions: By raw column, in the target's unit; with the base they add up to the prediction.
    """

    prediction: float
    contributions: dict[str, float]


class ExplainedPredictions(Message, frozen=True, kw_only=True):
    """Explained predictions of one request, all with the same model.

    Attributes:
        explanations: One a record, in the order of the request.
        base: Mean prediction of the background records, which the contributions start from, in the target's unit.
        background: Number of background records.
        method: Whether all coalitions of columns were evaluated, or a sample of their orders.
        model: Registered name.
        version: Registered version.
        pipeline_version: Pipeline version of the model.
    """

    explanations: tuple[ExplainedPrediction, ...]
    base: float
    background: int
    method: ExplanationMethod
    model: str
    version: str
    pipeline_version: str


PREDICT_COLUMNS = Request(
    "get-prediction-columns",
    ArrowPage,
    ArrowPage,
    "Return an Arrow page with `prediction` (float32) for an Arrow page of raw records, in the same order, and the key where it was "
    "given; its notes name `model`, `version` and `pipeline_version`, and `outside_range`, such as `Temp=3`, where values outside of "
    "their range were taken. Notes of the request ask for more: `interval`, such as `0.9`, for the columns `lower` and `upper`, and "
    "`warnings`, `true`, for that column.",
)
PREDICT_COLUMNS_WANDB = Request(
    "get-prediction-wandb-columns",
    ArrowPage,
    ArrowPage,
    "As `get-prediction-columns`, answered by `ml_serving` from the W&B artifact.",
)
EXPLAIN = Request(
    "explain-prediction",
    ExplainRequest,
    ExplainedPredictions,
    "Return the champion's predictions of raw records with the contribution (Shapley value) of each raw column.",
)
EXPLAIN_WANDB = Request(
    "explain-prediction-wandb",
    ExplainRequest,
    ExplainedPredictions,
    "As `explain-prediction`, answered by `ml_serving` from the W&B artifact.",
)
PREDICTION_MADE = Event("prediction-made", PredictionMade)
PREDICTION_FAILED = Event("prediction-failed", PredictionFailed)
TRUTH_KNOWN = Event("truth-known", TruthKnown)
