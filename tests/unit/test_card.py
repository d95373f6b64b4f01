"""The card of a model: its figures are those of the comparison, and what others have written stays text."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from complex_system.domain.dataset import Dataset
from complex_system.evaluation.card import CardSubject, make_card, residual_plot
from complex_system.evaluation.results import Comparison, Result
from complex_system.evaluation.statistics import Evaluation
from complex_system.protocol.explanation import ColumnImportance, ModelExplanation
from complex_system.tracking.promotion import CARD_HTML, CARD_MARKDOWN
from complex_system.tracking.registry import ModelVersionRef
from complex_system.training.conformal import intervals_of
from complex_system.training.data import Samples
from complex_system.training.training_set import TrainingSet

EVIL = "<script>alert(1)</script> | a\n`b` [c](javascript:d)"
DECLARED = f"""
name: plant
target: y
columns:
  - {{name: a, type: number, range: [0, 1], unit: mm, description: {EVIL!r}}}
  - {{name: y, type: number, optional: true, unit: N}}
pipeline:
  - {{step: keep, column: a}}
"""


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.add(tag)


@pytest.fixture
def subject() -> CardSubject:
    random = np.random.default_rng(2)
    truth = random.normal(50, 10, 300).astype(np.float32)
    predicted = truth + random.normal(0, 2, 300).astype(np.float32)
    holdout = Samples(truth[:, None], truth)
    ref = ModelVersionRef("plant-lightgbm", "3", "lightgbm", "lightgbm", "f" * 32, "v", {}, datetime(2026, 1, 2, tzinfo=UTC))
    result = Result(ref=ref, size=10, **vars(Evaluation.of(predicted, holdout)))
    mean = Evaluation.of(np.full_like(truth, truth.mean()), holdout)
    depends = ColumnImportance(column=EVIL, increase=3.25, low=3.0, high=3.5)
    told = ModelExplanation(model=ref.model, version=ref.version, rmse=2.0, records=300, repeats=5, importance=(depends,))
    comparison = Comparison(
        "r1", (result,), result, 300, baselines={"mean": mean}, notes=f"Beware: {EVIL}", truth=truth, explanation=told
    )
    trained = TrainingSet(
        dataset="plant", pipeline_version="v", split="content", question="a new sample", since=None, after=None, train=700,
        validation=150, calibration=40, listed=True, digest="", trainer="", seed=1, settings={}, searched={},
        parameters={EVIL: EVIL, "num_leaves": 10}, model="", versions={"lightgbm": "4.7.0"}, first=1.7e9, last=1.7e9 + 86_400,
    )  # fmt: skip
    intervals = intervals_of(np.linspace(-4, 4, 200), None, "calibration records")
    sample = pa.table({"a": [0.25, 0.75, None]})
    return CardSubject(Dataset.parse(DECLARED), comparison, result, trained, intervals, sample)


def test_a_card_says_what_the_comparison_found(subject: CardSubject) -> None:
    card = make_card(subject)
    text = card[CARD_MARKDOWN].decode()
    quality = subject.result.quality
    assert text.startswith("# plant-lightgbm 3\n")
    for said in (
        "700 records were trained on, 150 were for early stopping, 40 were set apart",
        "They are from 2023-11-14 22:13 to 2023-11-15 22:13 UTC.",
        "| a | number | mm | 0 to 1 | 0.25 to 0.75 |",
        f"| Hold-out part, which no trainer saw | 300 | {quality.rmse:.3g} | {quality.rmse_low:.3g} to {quality.rmse_high:.3g} |",
        " | 3.25 | 3.00 | 3.50 |",
        "| Baseline on the hold-out part: mean | 300 |",
        "90 % intervals, by calibration records of 200 records",
        f"By the command: fiot extras retrain {'f' * 32}",
        "| lightgbm | 4.7.0 |",
    ):
        assert said in text
    page = card[CARD_HTML].decode()
    assert "Residuals over the truth" in page
    assert page.count("h0") == 300


def test_what_others_wrote_stays_text(subject: CardSubject) -> None:
    card = make_card(subject)
    tags = Tags()
    tags.feed(card[CARD_HTML].decode())
    assert not tags.found & {"script", "img", "a", "iframe"}
    assert "&lt;script&gt;" in card[CARD_HTML].decode()
    text = card[CARD_MARKDOWN].decode()
    assert "<script>" not in text
    assert r"\<script\>alert(1)\</script\> \| a \`b\` \[c\](javascript:d)" in text


def test_a_card_of_a_model_of_which_little_is_known_says_so(subject: CardSubject) -> None:
    bare = replace(
        subject, trained=None, intervals=None, sample=None, comparison=replace(subject.comparison, truth=None, holdout=40)
    )
    text = make_card(bare)[CARD_MARKDOWN].decode()
    assert "cannot be trained again exactly" in text
    assert "They are not known." in text
    assert "Only 40 records measure the error" in text


def test_residuals_of_one_value_can_be_drawn() -> None:
    assert "<svg" in residual_plot(np.zeros(3, np.float32), np.zeros(3, np.float32), "")
