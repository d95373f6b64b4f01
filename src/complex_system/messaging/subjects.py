"""Every subject of the system as FastIoT has it: kio's published ones, and those of :mod:`complex_system.protocol`.

Requests and replies are FastIoT ``Thing`` messages; the payload is ``Thing.value``.
"""

from functools import cache
from typing import Any

from fastiot.core import ReplySubject, Subject
from fastiot.msg import Thing
from kio.ml_lifecycle_subjects_name import (
    DATA_PROCESSING_PROCESS_RAW_DATA_SUBJECT,
    DB_GET_ALL_PROCESSED_DATA_SUBJECT,
    DB_GET_ALL_RAW_DATA_SUBJECT,
    DB_GET_LABELED_DATASET_SUBJECT,
    DB_GET_PROCESSED_DATA_COUNT_SUBJECT,
    DB_GET_PROCESSED_DATA_PAGE_SUBJECT,
    DB_GET_PROCESSED_DATA_POINTS_COUNT_SUBJECT,
    DB_SAVE_MANY_RAW_DATAPOINTS_SUBJECT,
    DB_UPSERT_MANY_PROCESSED_DATAPOINTS_SUBJECT,
    ML_SERVING_SUBJECT,
)

from complex_system.protocol.base import Event, Request


def _published(subject: ReplySubject, description: str) -> Request[Any, Any]:
    """A subject that kio publishes: its payloads stay as they are, and the handler checks them."""
    return Request(subject.name, Any, Any, description)


SAVE_RAW = _published(DB_SAVE_MANY_RAW_DATAPOINTS_SUBJECT, "Save a list of raw records; keys that exist stay as they are.")
GET_ALL_RAW = _published(DB_GET_ALL_RAW_DATA_SUBJECT, "Return all raw records, as long as they fit into one reply.")
UPSERT_PROCESSED_RECORDS = _published(
    DB_UPSERT_MANY_PROCESSED_DATAPOINTS_SUBJECT, "Insert or replace a list of processed records."
)
GET_ALL_PROCESSED = _published(
    DB_GET_ALL_PROCESSED_DATA_SUBJECT, "Return all processed records, as long as they fit into one reply."
)
GET_LABELLED = _published(DB_GET_LABELED_DATASET_SUBJECT, "Return the processed records whose target is known.")
COUNT_PROCESSED = _published(DB_GET_PROCESSED_DATA_COUNT_SUBJECT, "Return the number of processed records.")
COUNT_PROCESSED_POINTS = _published(DB_GET_PROCESSED_DATA_POINTS_COUNT_SUBJECT, "The same under kio's second name.")
GET_PROCESSED_PAGE = _published(
    DB_GET_PROCESSED_DATA_PAGE_SUBJECT, 'Return a numbered page of processed records, `{"page": 0, "page_size": 10}`.'
)
PROCESS_RAW = _published(
    DATA_PROCESSING_PROCESS_RAW_DATA_SUBJECT, "Return the processed records of raw ones, in the same order."
)
PREDICT = _published(ML_SERVING_SUBJECT, "Return one prediction a raw record, as a list of lists of one number.")
PREDICT_WANDB: Request[Any, Any] = Request(
    "get-prediction-wandb", Any, Any, "As `get-prediction`, answered by `ml_serving` from the W&B artifact."
)
INGEST_RAW: Event[Any] = Event(
    "ingest-raw-datapoints",
    Any,
    "A raw record or a list of them, as a Thing or as JSON; also on `ingest-raw-datapoints.<source>`. JetStream keeps it.",
)
DEAD_RAW: Event[Any] = Event(
    "dead-raw-datapoints",
    Any,
    "A refused message as it came, with the reason in its headers, and with the source of the original in the subject.",
)


@cache
def reply_subject(request: Request[Any, Any]) -> ReplySubject:
    """FastIoT's subject of a request."""
    return ReplySubject(name=request.name, msg_cls=Thing, reply_cls=Thing)


@cache
def event_subject(event: Event[Any]) -> Subject:
    """FastIoT's subject of an event."""
    return Subject(name=event.name, msg_cls=Thing)


# Until everything uses messages:

__all__ = [
    "ALERT_ENDED",
    "ALERT_RAISED",
    "CHAMPION_CHANGED",
    "COMPARISON_FINISHED",
    "DATA_PROCESSING_PROCESS_RAW_DATA_SUBJECT",
    "DB_DELETE_DOCUMENTS_SUBJECT",
    "DB_GET_ALL_PROCESSED_DATA_SUBJECT",
    "DB_GET_ALL_RAW_DATA_SUBJECT",
    "DB_GET_COUNTS_SUBJECT",
    "DB_GET_DOCUMENTS_SUBJECT",
    "DB_GET_LABELED_DATASET_SUBJECT",
    "DB_GET_PROCESSED_COLUMNS_SUBJECT",
    "DB_GET_PROCESSED_DATA_COUNT_SUBJECT",
    "DB_GET_PROCESSED_DATA_PAGE_SUBJECT",
    "DB_GET_PROCESSED_DATA_POINTS_COUNT_SUBJECT",
    "DB_GET_RAW_BY_KEYS_SUBJECT",
    "DB_GET_REJECTED_PAGE_SUBJECT",
    "DB_GET_TARGETS_SUBJECT",
    "DB_GET_UNPROCESSED_PAGE_SUBJECT",
    "DB_REJECT_RAW_SUBJECT",
    "DB_SAVE_DOCUMENTS_SUBJECT",
    "DB_SAVE_MANY_RAW_DATAPOINTS_SUBJECT",
    "DB_UPSERT_MANY_PROCESSED_DATAPOINTS_SUBJECT",
    "DB_UPSERT_PROCESSED_COLUMNS_SUBJECT",
    "GET_ALERTS_SUBJECT",
    "GET_COMPARISON_SUBJECT",
    "GET_SCENARIO_SUBJECT",
    "ML_SERVING_COLUMNS_SUBJECT",
    "ML_SERVING_SUBJECT",
    "ML_SERVING_WANDB_COLUMNS_SUBJECT",
    "ML_SERVING_WANDB_SUBJECT",
    "MONITORING_SUBJECT",
    "PREDICTION_FAILED",
    "PREDICTION_MADE",
    "SCENARIO_CHANGED",
    "SERVICE_HEARTBEAT",
    "SET_SCENARIO_SUBJECT",
    "TRAINING_FINISHED",
    "TRAINING_PROGRESS",
    "TRAINING_ROUND",
    "TRAIN_MODEL_SUBJECT",
    "TRUTH_KNOWN",
    "ReplySubject",
    "Subject",
    "event",
    "health_subject",
    "request",
]


def request(name: str) -> ReplySubject:
    """A subject that is asked with a Thing and answered with a Thing."""
    return ReplySubject(name=name, msg_cls=Thing, reply_cls=Thing)


def event(name: str) -> Subject:
    """A subject that Things are published on, with no reply."""
    return Subject(name=name, msg_cls=Thing)


def health_subject(service: str) -> ReplySubject:
    """Where a service says how it is.

    Args:
        service: Its snake_case name, or ``<name>.<host name>`` for the one of that host.
    """
    return request(f"get-health.{service}")


# Database: what the design needs beyond kio's subjects
DB_GET_COUNTS_SUBJECT = request("get-record-counts")
"""``{}`` -> ``{"raw", "processed", "labelled", "rejected"}``."""
DB_GET_UNPROCESSED_PAGE_SUBJECT = request("get-unprocessed-page")
"""``{"version", "after"?, "limit"?, "share"?}`` -> Arrow page of raw records with no processed twin of that pipeline version.

A share ``[index, count]`` is the keys whose CRC-32 modulo ``count`` is ``index``: what one of ``count`` replicas works on."""
DB_UPSERT_PROCESSED_COLUMNS_SUBJECT = request("upsert-processed-columns")
"""Arrow page of processed records, note ``version`` -> as for kio's upsert."""
DB_GET_PROCESSED_COLUMNS_SUBJECT = request("get-processed-columns")
"""``{"after"?, "limit"?, "columns"?, "labelled"?, "version"?}`` -> Arrow page of processed records."""
DB_REJECT_RAW_SUBJECT = request("reject-raw-datapoints")
"""``{"version", "rejections": [{"_id", "reason"}]}`` -> ``{"acknowledged": true, "rejected": n}``."""
DB_GET_REJECTED_PAGE_SUBJECT = request("get-rejected-page")
"""``{"after"?, "limit"?}`` -> list of ``{"_id", "reason", "version"}``."""

# Ingest: published, kept by JetStream, written by the database service

# Training
TRAIN_MODEL_SUBJECT = request("train-model")
"""``{"round"?, "trainers"?: [...], "after"?: key}`` -> ``{"trainer", "accepted", "round", "reason"?}`` from every trainer that is
meant. With ``after`` it trains only on labelled records with larger keys: those that came later."""
TRAINING_PROGRESS = event("training-progress")
"""``{"trainer", "framework", "round", "stage", "step", "steps", "train_rmse"?, "validation_rmse"?}``."""
TRAINING_FINISHED = event("training-finished")
"""``{"trainer", "framework", "round", "status": "finished"|"failed", "model", "version", "run_id", "run_url", "validation", "samples",
"cross_validation"?, "seconds", "timings", "error"?}``; see ``training.folds.CrossValidation.as_dict``."""
COMPARISON_FINISHED = event("comparison-finished")
"""``{"round", "results": [...], "champion": {...}, "run_url", "holdout", "kept", "cause", "alerts", "ranked_by", ...}``; the rest is
described in ``evaluation.announcement``.

``kept`` says why the old champion stays, and is empty for a new one; ``cause`` is ``growth``, ``alert`` or ``schedule``."""
GET_COMPARISON_SUBJECT = request("get-comparison")
"""``{}`` -> the value of the newest ``comparison-finished``, also one from before a restart; None before the first."""
CHAMPION_CHANGED = event("champion-changed")
"""``{"model", "version", "framework", "rmse", "pipeline_version", "cause"}``; cause as in ``comparison-finished``."""

# Serving
ML_SERVING_WANDB_SUBJECT = request("get-prediction-wandb")
"""As ``get-prediction``, answered by ``ml_serving`` from the W&B artifact."""
ML_SERVING_COLUMNS_SUBJECT = request("get-prediction-columns")
"""Columnar twin of ``get-prediction``: Arrow page of raw columns (the key may be missing) -> Arrow page with ``prediction``
(float32) in the same order, and the key where it was given; its notes name ``model``, ``version`` and ``pipeline_version``."""
ML_SERVING_WANDB_COLUMNS_SUBJECT = request("get-prediction-wandb-columns")
"""As ``get-prediction-columns``, answered by ``ml_serving``."""
PREDICTION_MADE = event("prediction-made")
"""``{"service", "model", "version", "pipeline_version", "milliseconds", "predictions": [{"id", "record", "prediction"}]}``.

Where challengers scored the request too, also ``"shadows"``: a list of ``{"model", "version", "framework", "milliseconds",
"predictions": [number]}`` or ``{"model", "version", "error"}``."""
PREDICTION_FAILED = event("prediction-failed")
"""``{"service", "failures": {code: n}}``: failed requests for predictions by stable error code; at most one event a second."""
TRUTH_KNOWN = event("truth-known")
"""``{"truths": [{"id", "truth"}]}``: the measured value of records that were predicted."""

# Monitoring
MONITORING_SUBJECT = request("get-monitoring")
"""``{}`` -> ``{"system", "model", "performance", "latency", "services", "drift", "samples", ...}``: what ``ml_monitoring`` knows."""

# Database: what monitoring keeps there (domain.documents); subjects of their own, so that any service may keep something
DB_SAVE_DOCUMENTS_SUBJECT = request("save-monitoring-documents")
"""List of ``{"kind", "key", "at", "body"}`` -> ``{"acknowledged": true, "saved": n}``; the same kind and key is replaced."""
DB_GET_DOCUMENTS_SUBJECT = request("get-monitoring-documents")
"""``{"kind", "keys": [...]}`` or ``{"kind", "from", "to", "newest_first"?, "limit"?, "after"?: [at, key]}`` ->
``{"documents": [...], "next": [at, key] or None}``."""
DB_DELETE_DOCUMENTS_SUBJECT = request("delete-monitoring-documents")
"""``{"kind", "before"}`` or ``{"kind", "keys": [...]}`` -> ``{"acknowledged": true, "deleted": n}``."""
DB_GET_TARGETS_SUBJECT = request("get-targets")
"""``{"keys": [...]}`` -> ``{key: target}`` of the processed records whose target is known."""
DB_GET_RAW_BY_KEYS_SUBJECT = request("get-raw-by-keys")
"""``{"keys": [...]}`` -> Arrow page of the raw records with these keys; where ``next`` is set, ask again for the keys beyond it."""

# Alerts, and what the system does about them
ALERT_RAISED = event("alert-raised")
"""An alert that begins, see ``monitoring.alerts.Alert.as_dict``."""
ALERT_ENDED = event("alert-ended")
"""The same alert when it is over."""
GET_ALERTS_SUBJECT = request("get-alerts")
"""``{}`` -> ``{"open": [...], "past": [...]}``: the open alerts, and the newest of those that are over."""
TRAINING_ROUND = event("training-round")
"""``{"round", "stage": "started"|"failed", "cause", "alerts": [ids], "after", "labelled", "text"}``."""

# The source's scenarios
SET_SCENARIO_SUBJECT = request("set-scenario")
"""``{"scenario", "ramp"?}`` -> ``{"scenario", "began", "ramp"}``; see ``sources.scenarios``."""
GET_SCENARIO_SUBJECT = request("get-scenario")
"""``{}`` -> the same."""
SCENARIO_CHANGED = event("scenario-changed")
"""The same, when it begins."""

# Every service
SERVICE_HEARTBEAT = event("service-heartbeat")
"""``{"service", "replica", "instance", "host", "state", "detail", "pid", "url", "version", "started", "cpu_percent",
"memory_megabytes"}``; states: starting, waiting, ready, working, failing, and stopped in the last one of a service that ends in
order."""
