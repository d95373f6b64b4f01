"""What each service answers, hears, asks and announces on the broker: its user (``messaging.users``) may do that and no more.

The subjects are those of :mod:`complex_system.protocol` and of kio. Tests compare the declarations with the decorated handlers of
the services, and run every service with its own user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from complex_system.messaging import mqtt, readings, subjects
from complex_system.messaging.ingest.streams import CONSUMER, DEAD_STREAM, STREAM
from complex_system.messaging.lease import bucket_of
from complex_system.messaging.subjects import DEAD_RAW, INGEST_RAW
from complex_system.protocol import collection, database, documents, operations, promotion, serving, training, trial
from complex_system.protocol.base import Event, Request
from complex_system.protocol.operations import SERVICE_HEARTBEAT


@dataclass(frozen=True)
class ServiceSubjects:
    """What a service does on the broker, besides its heartbeats and answers about its health.

    Attributes:
        answers: Requests that it answers.
        hears: Events that it subscribes to.
        asks: Requests that it sends.
        announces: Events that it publishes.
        jetstream: Further subjects that it publishes on, of JetStream and its streams.
        shared: Subjects that it publishes on and subscribes to.
    """

    answers: tuple[Request[Any, Any], ...] = ()
    hears: tuple[Event[Any], ...] = ()
    asks: tuple[Request[Any, Any], ...] = ()
    announces: tuple[Event[Any], ...] = ()
    jetstream: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


def _manages(stream: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.STREAM.{action}.{stream}" for action in ("INFO", "CREATE", "UPDATE"))


def _consumes(stream: str, consumer: str) -> tuple[str, ...]:
    actions = ("INFO", "CREATE", "DURABLE.CREATE", "MSG.NEXT")
    requests = tuple(f"$JS.API.CONSUMER.{action}.{stream}.{consumer}" for action in actions)
    # Where the broker has a domain, acknowledgements name domain and account first.
    return (*requests, f"$JS.ACK.{stream}.{consumer}.>", f"$JS.ACK.*.*.{stream}.{consumer}.>")


def _keeps(bucket: str) -> tuple[str, ...]:
    stream = f"KV_{bucket}"
    reads = (f"$JS.API.STREAM.MSG.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>")
    return (*_manages(stream), *reads, f"$KV.{bucket}.>")


def _leases(service: str) -> tuple[str, ...]:
    return _keeps(bucket_of(service))


_INGEST = (
    *_manages(STREAM),
    *_manages(DEAD_STREAM),
    *_consumes(STREAM, CONSUMER),
    f"$JS.API.CONSUMER.CREATE.{DEAD_STREAM}",  # the sizes of a source's dead letters
    DEAD_RAW.name,
    f"{DEAD_RAW.name}.>",
    # What comes by MQTT is published again where the stream acknowledges it.
    *_manages(mqtt.STREAM),
    *_consumes(mqtt.STREAM, CONSUMER),
    INGEST_RAW.name,
    f"{INGEST_RAW.name}.>",
)

PUBLISHED = (
    subjects.SAVE_RAW,
    subjects.GET_ALL_RAW,
    subjects.UPSERT_PROCESSED_RECORDS,
    subjects.GET_ALL_PROCESSED,
    subjects.GET_LABELLED,
    subjects.COUNT_PROCESSED,
    subjects.COUNT_PROCESSED_POINTS,
    subjects.GET_PROCESSED_PAGE,
    subjects.PROCESS_RAW,
    subjects.PREDICT,
)
"""The subjects that kio publishes."""

_DATABASE = ServiceSubjects(
    answers=(
        *PUBLISHED[:8],
        database.GET_COUNTS,
        database.GET_UNPROCESSED,
        database.UPSERT_PROCESSED,
        database.GET_PROCESSED,
        database.GET_KEY_RANGES,
        database.REJECT_RAW,
        database.GET_REJECTED,
        database.GET_CONFLICTS,
        database.GET_RAW_BY_KEYS,
        database.GET_TARGETS,
        database.GET_INGEST_COUNTS,
        database.GET_TIME,
        database.GET_LAST_KEY,
        documents.SAVE_DOCUMENTS,
        documents.GET_DOCUMENTS,
        documents.DELETE_DOCUMENTS,
    ),
    announces=(operations.RECORDS_TRACED,),
    jetstream=_INGEST,
)
_TRIALS = (trial.GET_MODEL_INPUTS, trial.TRY_RECORD, trial.SUGGEST_SETTINGS)
_TRAINER = ServiceSubjects(
    answers=(training.TRAIN_MODEL,),
    asks=(database.GET_PROCESSED, database.GET_KEY_RANGES, database.GET_RAW_BY_KEYS, database.GET_COUNTS),
    announces=(training.TRAINING_PROGRESS, training.TRAINING_FINISHED),
)

SERVICES: Mapping[str, ServiceSubjects] = {
    "database_mongo": _DATABASE,
    "database_maria": _DATABASE,
    "data_processing": ServiceSubjects(
        answers=(subjects.PROCESS_RAW,),
        hears=(SERVICE_HEARTBEAT, operations.RECORDS_TRACED),
        asks=(database.GET_UNPROCESSED, database.UPSERT_PROCESSED, database.REJECT_RAW),
        announces=(database.RECORDS_REJECTED, database.RANGE_EXCEEDED),
    ),
    "dummy_data_generation": ServiceSubjects(
        answers=(operations.SET_SCENARIO, operations.GET_SCENARIO),
        asks=(subjects.SAVE_RAW, documents.SAVE_DOCUMENTS, documents.GET_DOCUMENTS),
        announces=(operations.SCENARIO_CHANGED,),
        jetstream=(f"{INGEST_RAW.name}.dummy_data_generation", f"{readings.FASTIOT}.>", *_leases("dummy_data_generation")),
    ),
    "ml_lightgbm_regression_mlflow": _TRAINER,
    "ml_pytorch_regression_mlflow": _TRAINER,
    "ml_pytorch_regression": _TRAINER,
    "ml_tensorflow_regression_mlflow": _TRAINER,
    "ml_consumer": ServiceSubjects(
        answers=(training.GET_COMPARISON, promotion.GET_PROMOTION, promotion.DECIDE_ON_CHAMPION),
        hears=(
            training.TRAINING_PROGRESS,
            training.TRAINING_FINISHED,
            operations.ALERT_RAISED,
            operations.ALERT_ENDED,
            operations.SCENARIO_CHANGED,
        ),
        asks=(
            training.TRAIN_MODEL,
            operations.GET_ALERTS,
            operations.GET_SCENARIO,
            subjects.PREDICT,
            database.GET_COUNTS,
            database.GET_PROCESSED,
            database.GET_UNPROCESSED,
            database.GET_LAST_KEY,
            database.GET_RAW_BY_KEYS,  # for the linear model, which is trained there
            documents.SAVE_DOCUMENTS,
            documents.GET_DOCUMENTS,
        ),
        announces=(
            training.TRAINING_ROUND,
            training.COMPARISON_FINISHED,
            training.CHAMPION_CHANGED,
            serving.TRUTH_KNOWN,
        ),
        jetstream=_leases("ml_consumer"),
    ),
    "ml_serving_mlflow": ServiceSubjects(
        answers=(subjects.PREDICT, serving.PREDICT_COLUMNS, serving.EXPLAIN, *_TRIALS),
        hears=(training.CHAMPION_CHANGED,),
        asks=(subjects.PROCESS_RAW,),
        announces=(serving.PREDICTION_MADE, serving.PREDICTION_FAILED),
    ),
    "ml_serving": ServiceSubjects(
        # The champion's subjects, too: with COMPLEX_SYSTEM_SERVING_ANSWERS_PREDICTION it answers them.
        answers=(
            subjects.PREDICT_WANDB,
            serving.PREDICT_COLUMNS_WANDB,
            serving.EXPLAIN_WANDB,
            subjects.PREDICT,
            serving.PREDICT_COLUMNS,
            serving.EXPLAIN,
            *_TRIALS,
        ),
        hears=(training.CHAMPION_CHANGED, training.TRAINING_FINISHED, SERVICE_HEARTBEAT),
        asks=(subjects.PROCESS_RAW, subjects.PREDICT),
        announces=(serving.PREDICTION_MADE, serving.PREDICTION_FAILED),
    ),
    "thing_collection": ServiceSubjects(
        answers=(collection.GET_COLLECTION,),
        asks=(
            subjects.SAVE_RAW,
            subjects.PREDICT,
            database.GET_RAW_BY_KEYS,
            documents.SAVE_DOCUMENTS,
            documents.GET_DOCUMENTS,
            documents.DELETE_DOCUMENTS,
        ),
        jetstream=(
            *_manages(readings.STREAM),
            *_manages(mqtt.STREAM),
            *_consumes(mqtt.STREAM, readings.CONSUMER),
            f"{readings.FASTIOT}.>",
            f"{readings.PLAIN}.>",
            *(
                f"$JS.API.CONSUMER.{action}.{readings.STREAM}.{readings.CONSUMER}"
                for action in ("CREATE", "DELETE", "MSG.NEXT")
            ),
            *_keeps(readings.BUCKET),
            *_leases("thing_collection"),
        ),
    ),
    "ml_monitoring": ServiceSubjects(
        answers=(operations.GET_ALERTS, operations.GET_MONITORING, operations.TEST_MESSAGES),
        hears=(
            serving.PREDICTION_MADE,
            serving.PREDICTION_FAILED,
            serving.TRUTH_KNOWN,
            training.CHAMPION_CHANGED,
            training.COMPARISON_FINISHED,
            training.TRAINING_ROUND,
            database.RECORDS_REJECTED,
            database.RANGE_EXCEEDED,
            SERVICE_HEARTBEAT,
        ),
        asks=(
            training.GET_COMPARISON,
            *_TRIALS,
            promotion.GET_PROMOTION,
            promotion.DECIDE_ON_CHAMPION,
            collection.GET_COLLECTION,
            database.GET_COUNTS,
            database.GET_INGEST_COUNTS,
            database.GET_TIME,
            database.GET_PROCESSED,
            database.GET_RAW_BY_KEYS,
            database.GET_TARGETS,
            documents.SAVE_DOCUMENTS,
            documents.GET_DOCUMENTS,
            documents.DELETE_DOCUMENTS,
        ),
        announces=(operations.ALERT_RAISED, operations.ALERT_ENDED),
        jetstream=_leases("ml_monitoring"),
    ),
}
"""What each service does on the broker."""

PROJECT_SERVICE = ServiceSubjects(
    hears=(
        SERVICE_HEARTBEAT,
        database.RECORDS_REJECTED,
        database.RANGE_EXCEEDED,
        operations.ALERT_RAISED,
        operations.ALERT_ENDED,
        operations.SCENARIO_CHANGED,
        serving.PREDICTION_MADE,
        serving.PREDICTION_FAILED,
        serving.TRUTH_KNOWN,
        training.TRAINING_ROUND,
        training.TRAINING_PROGRESS,
        training.TRAINING_FINISHED,
        training.COMPARISON_FINISHED,
        training.CHAMPION_CHANGED,
    ),
    asks=PUBLISHED,
    shared=("v1.>",),
)
"""What a service of a project's own does: it sends kio's requests, hears events, and has FastIoT's subjects for its own messages."""

_OWN_DATABASE = "database_"


def subjects_of(service: str) -> ServiceSubjects:
    """Return what a service does on the broker: one of ours, a database service of somebody's own, or any other of a project."""
    return SERVICES.get(service, _DATABASE if service.startswith(_OWN_DATABASE) else PROJECT_SERVICE)


def declared_subjects() -> tuple[str, ...]:
    """Return the names of all declared subjects, sorted; those of the services' health not among them."""
    modules: tuple[ModuleType, ...] = (
        subjects, collection, database, documents, operations, promotion, serving, training, trial,
    )  # fmt: skip
    found = {each.name for module in modules for each in vars(module).values() if isinstance(each, Request | Event)}
    return tuple(sorted(found))
