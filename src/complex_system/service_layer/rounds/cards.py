"""Writes the cards of the models of a round into the runs of their trainings."""

from __future__ import annotations

import logging

import msgspec

from complex_system.domain.dataset import Dataset
from complex_system.errors import ModelRefusedError, TrackingRefusedError, TrackingUnavailableError
from complex_system.evaluation.card import CardSubject, make_card
from complex_system.evaluation.results import Comparison, Result
from complex_system.tracking.model_files import SAMPLE_FILE, TRAINING, decode_sample
from complex_system.tracking.promotion import PromotionRegistry
from complex_system.tracking.registry import ONNX_FOLDER
from complex_system.training.conformal import INTERVALS_FILE, Intervals
from complex_system.training.training_set import TRAINING_SET, TrainingSet

log = logging.getLogger(__name__)


def write_cards(registry: PromotionRegistry, dataset: Dataset, comparison: Comparison) -> None:
    """Write the card of every new model. Blocking. A model whose card cannot be made does not hold up the round.

    Raises:
        TrackingUnavailableError: MLflow does not answer; call it again.
    """
    for result in comparison.results:
        if result.incumbent:
            continue
        try:
            registry.write_card(result.ref, make_card(_subject(registry, dataset, comparison, result)))
        except (TrackingRefusedError, ModelRefusedError, msgspec.MsgspecError) as error:
            log.warning("%s has no card: %s", result.label, error)
        except TrackingUnavailableError:
            raise
        except Exception:
            log.exception("%s has no card", result.label)


def _subject(registry: PromotionRegistry, dataset: Dataset, comparison: Comparison, result: Result) -> CardSubject:
    trained = registry.read(result.ref, TRAINING, (TRAINING_SET,)).get(TRAINING_SET)
    beside = registry.read(result.ref, ONNX_FOLDER, (INTERVALS_FILE, SAMPLE_FILE))
    return CardSubject(
        dataset, comparison, result,
        None if trained is None else msgspec.json.decode(trained, type=TrainingSet),
        Intervals.decoded(beside[INTERVALS_FILE]) if INTERVALS_FILE in beside else None,
        decode_sample(beside[SAMPLE_FILE]) if SAMPLE_FILE in beside else None,
    )  # fmt: skip
