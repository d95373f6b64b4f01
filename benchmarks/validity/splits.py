"""What the error of a model answers: the same trainer on public tables, divided by key, by group and by time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.tables import Table
from benchmarks.validity import Claim, claims_table, progress, public_table
from complex_system.domain.partition import Split
from complex_system.training.base import score
from complex_system.training.cross_validation import Keyed
from complex_system.training.data import Samples, TrainingData
from complex_system.training.grouping import Origins, parts_by_group, parts_by_time, text_hash
from complex_system.training.lightgbm import LightGBMTrainer
from complex_system.training.split import Hashes, Part, Parts, parts_of

MIXTURE = (
    "cement", "blast_furnace_slag", "fly_ash", "water", "superplasticizer", "coarse_aggregate", "fine_aggregate",
)  # fmt: skip
BY_MIXTURE, BY_TIME = 5.82, 2.91
"""RMSE on concrete and on Chicago's ridership, as the review that asked for these splits measured them."""
DAY = 86_400.0


def measure(*, quick: bool) -> Table:
    claims = [*_concrete(4 if quick else 30), *_chicago()]
    note = (
        "LightGBM with the trainer's own settings. concrete (R's modeldata): 1,030 samples of 427 mixtures, several ages each; "
        "means over divisions by differently salted hashes. Chicago (modeldata): daily ridership with month and weekday as "
        "features; the hold-out part is the last 15 %."
    )
    return claims_table("Splits", note, claims)


def _concrete(divisions: int) -> list[Claim]:
    table = public_table("concrete", "modeldata")
    names = tuple(name for name in table if name not in ("rownames", "compressive_strength"))
    x, y = _matrix(table, names), np.asarray(table["compressive_strength"], dtype=np.float32)
    mixtures = [repr(row) for row in zip(*(table[name] for name in MIXTURE), strict=True)]
    keys = [repr(row) for row in zip(*(table[name] for name in (*names, "compressive_strength")), strict=True)]
    by_key, by_group = [], []
    shares, torn = [], 0
    for salt in progress("concrete", range(divisions), divisions):
        by_key.append(_holdout_rmse(names, x, y, parts_of(f"{salt} {key}" for key in keys)))
        groups = _hashes([f"{salt} {mixture}" for mixture in mixtures])
        parts = parts_by_group(groups)
        by_group.append(_holdout_rmse(names, x, y, parts))
        shares.append(float(np.mean(parts == Part.HOLDOUT)))
        samples = Samples(x, y, groups, np.zeros(len(y)))
        keyed = Keyed(tuple(map(str, groups.tolist())), samples, Split(by="group", group=MIXTURE))
        divided = [[parts == part for part in Part], *([*fold] for folds in keyed.folds() for fold in folds)]
        torn += sum(_common(groups, each) for each in divided)
    group = float(np.mean(by_group))
    error = float(np.std(by_group, ddof=1) / np.sqrt(divisions))
    return [
        Claim("concrete by key: a new sample of known mixtures", f"RMSE {np.mean(by_key):.2f} ({divisions} divisions)"),
        Claim(
            "concrete by group: a new mixture", f"RMSE {group:.2f} (standard error {error:.2f}, {divisions} divisions)",
            f"{BY_MIXTURE} within 5 %", abs(group - BY_MIXTURE) <= 0.05 * BY_MIXTURE,
        ),
        Claim("mixtures in two parts or in two sides of a fold", str(torn), "0", not torn),
        Claim(
            "hold-out share of the records, by group", f"{min(shares):.1%} to {max(shares):.1%}", "13 to 17 %",
            min(shares) >= 0.13 and max(shares) <= 0.17,
        ),
    ]  # fmt: skip


def _chicago() -> list[Claim]:
    table = public_table("Chicago", "modeldata")
    days = np.array([str(day)[:10] for day in table["date"]], dtype="datetime64[D]")
    months, weekdays = days.astype("datetime64[M]").astype(int) % 12 + 1, (days.astype(int) + 3) % 7 + 1
    names = tuple(name for name in table if name not in ("rownames", "ridership", "date"))
    x = np.column_stack([_matrix(table, names), months, weekdays]).astype(np.float32)
    names, y = (*names, "date_month", "date_weekday"), np.asarray(table["ridership"], dtype=np.float32)
    times = days.astype(float) * DAY
    origins = Origins(_hashes([str(day) for day in days]), times, times)
    parts, with_gap = parts_by_time(origins, 0.0), parts_by_time(origins, 14 * DAY)
    rmse = _holdout_rmse(names, x, y, parts)
    last, first = times[parts == Part.TRAIN].max(), times[parts == Part.HOLDOUT].min()
    pause = (times[with_gap == Part.HOLDOUT].min() - times[with_gap == Part.VALIDATION].max()) / DAY
    keyed = Keyed(tuple(map(str, days)), Samples(x, y, origins.bound, times), Split(by="time", gap=14 * DAY, copies="apart"))
    apart = min(times[fold.scored].min() - times[fold.train].max() for fold in keyed.folds()[0]) / DAY
    return [
        Claim("Chicago by key: a day among known days", f"RMSE {_holdout_rmse(names, x, y, parts_of(map(str, days))):.2f}"),
        Claim(
            "Chicago by time: what comes later", f"RMSE {rmse:.2f}", f"{BY_TIME} within 10 %", abs(rmse - BY_TIME) <= 0.1 * BY_TIME
        ),
        Claim("the same with a gap of 14 days", f"RMSE {_holdout_rmse(names, x, y, with_gap):.2f}"),
        Claim("from the largest time trained on to the smallest held out", f"{(first - last) / DAY:.0f} days", "> 0", last < first),
        Claim("with a gap of 14 days, before the hold-out part", f"{pause:.0f} days", "> 14", pause > 14),
        Claim("the same in folds that roll forward, between training and scored", f"{apart:.0f} days", "> 28", apart > 28),
    ]  # fmt: skip


def _holdout_rmse(names: tuple[str, ...], x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], parts: Parts) -> float:
    """RMSE on the hold-out part of a model that is trained on the training part, and stops early by the validation part."""
    train, validation, holdout = (Samples(x[parts == part], y[parts == part]) for part in Part)
    model = LightGBMTrainer().fit(TrainingData(names, "y", train, validation), lambda _: None)
    return score(holdout.y, model.predict(holdout.x)).rmse


def _common(groups: Hashes, sides: Sequence[npt.NDArray[np.generic]]) -> int:
    """Groups that are in more than one of some sets of records."""
    found = np.concatenate([np.unique(groups[side]) for side in sides])
    return len(found) - len(np.unique(found))


def _matrix(table: dict[str, list[object]], names: Sequence[str]) -> npt.NDArray[np.float32]:
    return np.column_stack([np.asarray(table[name], dtype=np.float32) for name in names])


def _hashes(texts: Sequence[str]) -> Hashes:
    return np.array([text_hash(text) for text in texts], dtype=np.uint64)
