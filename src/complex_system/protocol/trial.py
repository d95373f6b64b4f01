"""Trying the champion with made-up records, as the page does: what it takes, what it says, and settings that reach a value."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from complex_system.domain.records import Record
from complex_system.protocol.base import Empty, Message, Request

MAX_SUGGESTIONS = 10
MAX_SECONDS = 20.0
"""Longest search that a request may ask for; a request over NATS has to be answered within its time limit."""


class SuggestRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for settings that reach a value, or an extreme.

    Attributes:
        goal: `value`, `maximum` or `minimum` of the prediction.
        value: The prediction to reach, in the target's unit; with the goal `value` only.
        free: Raw columns that may be changed: numbers, integers, booleans and categories.
        record: The raw record with the values of all other columns.
        within: Narrower bounds of a free column, `[smallest, largest]`, or the categories that it may have.
        count: Number of different solutions.
        seed: The same seed and the same model find the same solutions.
        seconds: The search ends after that time, with what it has found.
    """

    goal: Literal["value", "maximum", "minimum"]
    free: Annotated[list[str], Meta(min_length=1)]
    record: Record = {}
    value: float | None = None
    within: dict[str, list[Any]] = {}
    count: Annotated[int, Meta(ge=1, le=MAX_SUGGESTIONS)] = 3
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    seconds: Annotated[float, Meta(gt=0, le=MAX_SECONDS)] = 5.0


class Suggestion(Message, frozen=True, kw_only=True):
    """Settings that were found.

    Attributes:
        record: The raw record, with the found values.
        prediction: In the target's unit.
        reached: Whether the prediction is as near to the wanted value as predictions can be told apart; true for an extreme.
        distance: From the nearest known record; above 1 it is further away than 95 % of the known records are from their nearest.
        half_width: Of the 90 % interval around the prediction; None where the model has none.
    """

    record: Record
    prediction: float
    half_width: float | None = None
    reached: bool
    distance: float


class Suggestions(Message, frozen=True, kw_only=True):
    """The solutions, the best first, and how they were found.

    Attributes:
        suggestions: Each differs from the others in a category, or by a tenth of the bounds of a number.
        target: Name of what is predicted.
        model: Registered name of the model.
        version: Its registered version.
        pipeline_version: Its pipeline version.
        evaluations: Number of predictions that were made.
        complete: Whether the search ended by itself, so that it can be repeated exactly, and not because its time was over.
        request_id: Of a request over REST; empty over NATS.
    """

    suggestions: list[Suggestion]
    target: str
    model: str
    version: str
    pipeline_version: str
    evaluations: int
    complete: bool
    request_id: str = ""


class ModelInput(Message, frozen=True, kw_only=True):
    """A raw column that features are made of.

    Attributes:
        name: Of the column.
        type: Its declared type.
        unit: Of its values; empty where none is declared.
        description: For readers.
        optional: Whether it may be missing.
        low: Smallest number: declared, else of known records; None where neither is known.
        high: Largest number.
        step: Steps of a number that people tell apart.
        categories: Of a category, or of a list of them.
        format: How a time is written.
        free: Whether settings of it can be searched.
    """

    name: str
    type: str
    unit: str = ""
    description: str = ""
    optional: bool = False
    low: float | None = None
    high: float | None = None
    step: float | None = None
    categories: tuple[str, ...] = ()
    format: str = ""
    free: bool = False


class ModelInputs(Message, frozen=True, kw_only=True):
    """What the champion takes.

    Attributes:
        model: Registered name.
        version: Its registered version.
        pipeline_version: Its pipeline version; with it, the columns stay.
        target: Name of what is predicted.
        unit: Of the prediction; empty where none is declared.
        columns: Those that features are made of, as declared.
        record: A typical record: medians and the most frequent values of known records, or examples where none are known.
    """

    model: str
    version: str
    pipeline_version: str
    target: str
    unit: str = ""
    columns: tuple[ModelInput, ...] = ()
    record: Record = {}


class TryRequest(Message, frozen=True, kw_only=True):
    """Asks what the champion says about a made-up record; monitoring does not hear of it.

    Attributes:
        record: The raw record.
    """

    record: Record


class TriedRecord(Message, frozen=True, kw_only=True):
    """What the champion says about a record.

    Attributes:
        model: Registered name.
        version: Its registered version.
        prediction: In the target's unit.
        half_width: Of the 90 % interval around it; None where the model has none.
        warnings: What is unusual about the record.
        contributions: By raw column, in the target's unit; with the base they add up to the prediction. Empty where the model
            carries no known records.
        base: Mean prediction of known records, which the contributions start from.
    """

    model: str
    version: str
    prediction: float
    half_width: float | None = None
    warnings: tuple[str, ...] = ()
    contributions: dict[str, float] = {}
    base: float | None = None


GET_MODEL_INPUTS = Request(
    "get-model-inputs",
    Empty,
    ModelInputs,
    "Return the raw columns that the champion's features are made of, and a typical record.",
)
TRY_RECORD = Request("try-record", TryRequest, TriedRecord, "Return what the champion says about a made-up record.")
SUGGEST_SETTINGS = Request(
    "suggest-settings",
    SuggestRequest,
    Suggestions,
    "Return settings of the free columns for which the champion predicts a value, a maximum or a minimum, near to known records.",
)
