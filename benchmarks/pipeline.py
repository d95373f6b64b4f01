"""The pipeline: a million records and one, against polars by hand and kio's transformers. ``python -m benchmarks.pipeline``."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
from kio.pipeline_operations import ColumnDropper, NormalizeCols, OneHotEncodePd, ReplaceNoneValues

from benchmarks.plant import DATASET, quick
from benchmarks.run import main
from benchmarks.tables import Table, compared, rounds_of
from complex_system.domain.dataset import ID
from complex_system.domain.laboratory import MATERIALS, Laboratory
from complex_system.pipeline.pipeline import Pipeline

R1, R2, R3 = (f"rohwert_{i}_labormessung" for i in (1, 2, 3))
BINS = {"very_low": (0, 6), "low": (6, 12), "medium": (12, 18), "high": (18, 24), "very_high": (24, 30)}


def by_hand(raw: pl.DataFrame) -> pl.DataFrame:
    """The same features, written out as one would for this data set alone; nothing is checked."""
    r1, r2, r3 = pl.col(R1).fill_null(15.0), pl.col(R2).fill_null(15.0), pl.col(R3).fill_null(0.5)
    made = [
        pl.col("laborant").eq_missing(pl.lit(who)).cast(pl.Float64).alias(f"laborant_{who}")
        for who in ("AN", "HANS", "SO", "TK")
    ]
    made += [pl.col("material_id").eq(pl.lit(which)).cast(pl.Float64).alias(f"material_id_{which}") for which in MATERIALS]
    made += [
        r1.is_between(low, high, closed="right" if low else "both").cast(pl.Float64).alias(f"rohwert_1_{name}")
        for name, (low, high) in BINS.items()
    ]
    made += [(r2 * (1 / 30)).alias(R2), (r3 - 1.0).alias(R3)]
    return raw.select(ID, DATASET.target, *made)


def with_kio(raw: pd.DataFrame) -> pd.DataFrame:
    """The same features by kio's transformers, one after another, and by ``pandas.cut`` for the bins."""
    x = raw.astype(object)
    x = x.where(x.notna(), None)
    for name, fill in ((R1, 15.0), (R2, 15.0), (R3, 0.5)):
        x = ReplaceNoneValues(name, fill).transform(x)
    edges = [0, *(high for _, high in BINS.values())]
    x["rohwert_1"] = pd.cut(x[R1].astype(float), bins=edges, include_lowest=True, labels=list(BINS)).astype(str)
    for name in ("material_id", "laborant", "rohwert_1"):
        needed = [feature for feature in DATASET.feature_names if feature.startswith(f"{name}_") and feature not in (R2, R3)]
        x = OneHotEncodePd(name, name, "_", needed).transform(x)
    x = NormalizeCols((0, 30), R2, (0.0, 1.0)).transform(x)
    x = NormalizeCols((0, 2), R3, (-1.0, 1.0)).transform(x)
    return ColumnDropper([ID, "datum", R1, DATASET.target]).transform(x)


def measure(*, quick: bool) -> list[Table]:
    """Many records, and one."""
    return [_many(100_000 if quick else 1_000_000, 3 if quick else 5), _one(200 if quick else 1000, 5)]


def _many(count: int, rounds: int) -> Table:
    stock = list(Laboratory(seed=1).records(50_000))
    part = pl.DataFrame(stock, infer_schema_length=None)
    raw = pl.concat([part] * (count // len(stock)), rechunk=True)
    pipeline = Pipeline(DATASET)
    small = raw.head(2000)
    _same(pipeline.split(small)[0], by_hand(small), with_kio(small.to_pandas()))

    def ours() -> None:
        processed, rejections = pipeline.split(raw)
        assert processed.height == count
        assert not rejections

    few = 20_000
    pandas = raw.head(few).to_pandas()
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: _timed(ours),
        "the same in polars by hand": lambda: _timed(lambda: by_hand(raw)),
        # In the time that all would take it would be measured once; it grows with the records.
        "kio's transformers": lambda: _timed(lambda: with_kio(pandas)) * count / few,
    }
    note = (
        f"{count:,} raw records to processed ones. Ours checks every value and would put bad records aside; polars by hand checks "
        f"nothing. kio's transformers are measured on {few:,} records, and their time is scaled."
    )
    seconds = _alternated(ways, rounds)
    aims = {"the same in polars by hand": "<= 1.2 x the time"}
    return compared(f"Pipeline, {count:,} records", note, seconds, count=count, unit="records/s", aims=aims)


def _alternated(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The rounds of kio's transformers after all of the two others, and these in both orders.

    kio's take seconds, and what comes right after them was seen to be slower.
    """
    slow = {"kio's transformers": ways["kio's transformers"]}
    quick = {name: way for name, way in ways.items() if name not in slow}
    there = rounds_of(quick, rounds)
    back = rounds_of(dict(reversed(quick.items())), rounds)
    return {name: there[name] + back[name] for name in quick} | rounds_of(slow, rounds)


def _one(count: int, rounds: int) -> Table:
    records = list(Laboratory(seed=1).records(count))
    pipeline = Pipeline(DATASET)
    frames = [
        pl.DataFrame([record], schema_overrides=dict.fromkeys((R1, R2, R3, DATASET.target), pl.Float64))
        for record in records
    ]
    few = [pd.DataFrame([record]) for record in records[:20]]

    def ours() -> None:
        for record in records:
            pipeline.features([record])

    def polars() -> None:
        for frame in frames:
            by_hand(frame)

    def kio() -> None:
        for frame in few:
            with_kio(frame)

    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: _timed(ours),
        "the same in polars by hand": lambda: _timed(polars),
        "kio's transformers": lambda: _timed(kio) * count / len(few),
    }
    note = "One raw record to its features, as serving needs it. Ours takes the record as it comes, the others ready-made frames."
    seconds = rounds_of(ways, rounds)
    aims = {"the same in polars by hand": "below 1 ms"}
    return compared("Pipeline, one record", note, seconds, count=count, unit="ms a record", per="each", aims=aims)


def _same(ours: pl.DataFrame, polars: pl.DataFrame, kio: pd.DataFrame) -> None:
    for name in DATASET.feature_names:
        values = ours.get_column(name).to_numpy()
        for others in (polars.get_column(name).to_numpy(), kio[name].to_numpy(dtype=float)):
            assert np.allclose(values, others, rtol=0, atol=1e-12), name


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(["pipeline"], quick=quick())
