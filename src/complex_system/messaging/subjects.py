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


SAVE_RAW = _published(
    DB_SAVE_MANY_RAW_DATAPOINTS_SUBJECT, "Save a list of raw records; later values fill missing ones of their key."
)
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
PREDICT = _published(
    ML_SERVING_SUBJECT,
    'Return one prediction a raw record, as a list of lists of one number. `{"records": [...], "interval": 0.9, "warnings": true}` is '
    "answered with that list as `predictions`, and with `intervals` and `record_warnings`.",
)
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
