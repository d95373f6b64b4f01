"""How many records of a process are refused by the ranges of others, and what wrong labels do to a model by its loss."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, public_table, random
from complex_system.describe.checking import FileCheck, check_file
from complex_system.describe.description import describe
from complex_system.domain.dataset import Dataset, Loss
from complex_system.training.base import Trainer, TrainingParameters, score
from complex_system.training.data import Samples, TrainingData
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.pytorch import PyTorchTrainer
from complex_system.training.tensorflow import TensorFlowTrainer

LOSSES: tuple[Loss, ...] = ("squared", "absolute", "huber")
TRAINERS: dict[str, type[Trainer]] = {
    "LightGBM": LightGBMTrainer,
    "PyTorch": PyTorchTrainer,
    "TensorFlow": TensorFlowTrainer,
}
NOISE = 2.0
WRONG = 0.04


def measure(*, quick: bool) -> Iterator[Table]:
    yield _refused(5)
    yield _losses(1 if quick else 3)


def _refused(halves: int) -> Table:
    """One half of a public table of a chemical process, by what is proposed for the other one."""
    table = pl.DataFrame(public_table("chem_proc_yield", "modeldata")).drop("rownames", strict=False)
    at_random = [_checked(table[random("outside halves", i).permutation(table.height)]) for i in range(halves)]
    in_order = _checked(table)
    claims = []
    for name, found in ((f"{halves} random halves", at_random), ("the second half by the first", [in_order])):
        claims += [
            Claim(f"{name}: refused with outside: refuse", _share([strict for _, strict in found])),
            Claim(f"{name}: refused by the proposal, outside: warn", _share([warned for warned, _ in found])),
        ]
    checked = [warned for warned, _ in (*at_random, in_order)]
    for_a_range = sum(" is outside of " in reason for each in checked for reason in each.reasons)
    values = sum(sum(each.outside.values()) for each in checked)
    claims += [
        Claim("columns that refuse a record for its range, by the proposal", f"{for_a_range}", "0", holds=for_a_range == 0),
        Claim("values outside of their range, taken and counted", f"{values}"),
    ]
    note = (
        f"{table.height} records of {table.width - 1} measured columns (modeldata, chem_proc_yield): one half is described, the other "
        "one checked. What the proposal still refuses lacks a value that all records of the described half have."
    )
    return claims_table("Outside of the range", note, claims)


def _checked(table: pl.DataFrame) -> tuple[FileCheck, FileCheck]:
    """Return the check of the second half by what is proposed for the first, and by the same with ``outside: refuse``."""
    half = table.height // 2
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first.csv"), Path(folder, "second.csv")
        table.head(half).write_csv(first)
        table.tail(table.height - half).write_csv(second)
        text = describe(first, "yield").text()
        warned, strict = (check_file(second, Dataset.parse(each)) for each in (text, text.replace(", outside: warn", "")))
    return warned, strict


def _share(checks: list[FileCheck]) -> str:
    refused, records = sum(each.refused for each in checks), sum(each.records for each in checks)
    return f"{refused} of {records} ({refused / records:.0%})"


def _losses(seeds: int) -> Table:
    """The error on right labels of models that were trained with some wrong ones."""
    claims = []
    for name, kind in TRAINERS.items():
        found: dict[Loss, list[float]] = {loss: [] for loss in LOSSES}
        for seed in progress(f"losses, {name}", range(seeds), seeds):
            data, x, truth = _with_wrong_labels(seed)
            for loss in LOSSES:
                model = kind(TrainingParameters(seed=seed)).fit(_with_loss(data, loss), lambda _: None)
                found[loss].append(score(truth, model.predict(x)).rmse)
        squared = float(np.mean(found["squared"]))
        for loss in LOSSES:
            rmse = float(np.mean(found[loss]))
            robust = loss != "squared"
            aim = "below half of squared" if robust else ""
            claims.append(Claim(f"{name}, loss: {loss}", f"RMSE {rmse:.2f}", aim, holds=rmse < 0.5 * squared))
    note = (
        f"1,000 records, a known law with noise {NOISE:g}, {WRONG:.0%} of the labels ten times too large; the RMSE to the law on "
        f"2,000 others, mean of {seeds} seeds."
    )
    return claims_table("Wrong labels", note, claims)


def _with_wrong_labels(seed: int) -> tuple[TrainingData, np.ndarray, np.ndarray]:
    numbers = random("outside", seed)
    x = numbers.uniform(0, 1, (3000, 3)).astype(np.float32)
    truth = (100 + 40 * x[:, 0] + 20 * (x[:, 1] > 0.5)).astype(np.float32)
    y = truth + numbers.normal(0, NOISE, len(x)).astype(np.float32)
    y[numbers.random(len(x)) < WRONG] *= 10
    parts = [Samples(x[part], y[part]) for part in (slice(0, 800), slice(800, 1000))]
    return TrainingData(("a", "b", "c"), "y", *parts), x[1000:], truth[1000:]


def _with_loss(data: TrainingData, loss: Loss) -> TrainingData:
    return TrainingData(data.feature_names, data.target, data.train, data.validation, loss=loss)
