"""Every step against others' code: kio's or scikit-learn's transformer, scipy's function or the standard library's calendar."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from kio.dataset import example_dataset
from kio.pipeline_operations import (
    BoxCoxTransformer,
    ColumnDropper,
    MultiOneHotEncodePd,
    NormalizeCols,
    NumericOneHotEncodePd,
    ReplaceNoneValues,
    StandardizeCols,
)
from scipy.special import boxcox
from scipy.stats import boxcox as fitted_boxcox
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    MultiLabelBinarizer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)

from complex_system.domain.dataset import Dataset
from complex_system.domain.datetimes import TimeFormat
from complex_system.local.own_data import films
from complex_system.pipeline.pipeline import Pipeline

RANDOM = np.random.default_rng(7)
POSITIVE = RANDOM.uniform(0.01, 50, 500)
OTHER = RANDOM.uniform(1, 9, 500)


def made(steps: list[dict[str, Any]], columns: list[dict[str, Any]], **values: Any) -> pl.DataFrame:
    """The features of records whose columns hold ``values``."""
    dataset = Dataset.parse(
        yaml.safe_dump(
            {
                "name": "oracle",
                "target": "y",
                "columns": [*columns, {"name": "y", "type": "number", "optional": True}],
                "pipeline": steps,
            }
        )
    )
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return Pipeline(dataset).process(rows).select(dataset.feature_names)


def numbers(*steps: dict[str, Any], **options: Any) -> pl.DataFrame:
    columns = [
        {"name": "a", "type": "number", "range": [0.001, 60], **options},
        {"name": "b", "type": "number", "range": [1, 10]},
    ]
    return made(list(steps), columns, a=POSITIVE.tolist(), b=OTHER.tolist())


def same(ours: pl.Series, theirs: Any) -> None:
    theirs = np.asarray(theirs, dtype=float).ravel()
    assert theirs.std() > 0
    np.testing.assert_allclose(ours.to_numpy(), theirs, rtol=1e-12, atol=1e-14)


def test_scale_is_kios_and_min_max_scaler() -> None:
    ours = numbers({"step": "scale", "column": "a", "to": [-1, 3]})["a"]
    same(ours, NormalizeCols((0.001, 60), "a", (-1, 3)).transform(pd.DataFrame({"a": POSITIVE}))["a"])
    scaler = MinMaxScaler((-1, 3)).fit([[0.001], [60]])
    same(ours, scaler.transform(POSITIVE[:, None]))


def test_standardise_is_kios_and_standard_scaler() -> None:
    mean, deviation = float(POSITIVE.mean()), float(POSITIVE.std())
    ours = numbers({"step": "standardise", "column": "a", "mean": mean, "deviation": deviation})["a"]
    same(ours, StandardizeCols("a", mean, deviation).transform(pd.DataFrame({"a": POSITIVE}))["a"])
    same(ours, StandardScaler().fit_transform(POSITIVE[:, None]))


@pytest.mark.parametrize("power", [0.0, 0.3, -1.5, 1.0, 2.0, 0.5])
def test_box_cox_is_kios_and_scipys(power: float) -> None:
    ours = numbers({"step": "box_cox", "column": "a", "power": power})["a"]
    same(ours, BoxCoxTransformer("a", power).transform(pd.DataFrame({"a": POSITIVE}))["a"])
    same(ours, boxcox(POSITIVE, power))
    same(ours, fitted_boxcox(POSITIVE, power))


def test_log_is_numpys() -> None:
    same(numbers({"step": "log", "column": "a"})["a"], FunctionTransformer(np.log).transform(POSITIVE))
    same(numbers({"step": "log", "column": "a", "plus": 1})["a"], FunctionTransformer(np.log1p).transform(POSITIVE))


def test_clip_is_numpys() -> None:
    ours = numbers({"step": "clip", "column": "a", "to": [5, 20]})["a"]
    same(ours, np.clip(POSITIVE, 5, 20))


def test_product_is_the_interaction_of_polynomial_features() -> None:
    ours = numbers({"step": "product", "columns": ["a", "b"], "as": "ab"})["ab"]
    same(ours, PolynomialFeatures(interaction_only=True).fit_transform(np.column_stack([POSITIVE, OTHER]))[:, 3])


def test_ratio_is_numpys() -> None:
    same(numbers({"step": "ratio", "column": "a", "by": "b", "as": "a_by_b"})["a_by_b"], np.divide(POSITIVE, OTHER))


def test_bins_are_pandas_cut_and_k_bins_discretizer() -> None:
    edges = [0.001, 10, 20.5, 60]
    ours = numbers({"step": "bins", "column": "a", "edges": edges, "labels": ["low", "mid", "top"]})
    cut = pd.get_dummies(pd.cut(POSITIVE, edges, include_lowest=True, labels=["low", "mid", "top"]), dtype=float)
    binner = KBinsDiscretizer(3, encode="onehot-dense", strategy="uniform").fit([[0.0], [60.0]])
    even = numbers({"step": "bins", "column": "a", "edges": [0, 20, 40, 60], "labels": ["1", "2", "3"]})
    for name in ("low", "mid", "top"):
        same(ours[f"a_{name}"], cut[name])
    for place, name in enumerate("123"):
        same(even[f"a_{name}"], binner.transform(POSITIVE[:, None])[:, place])


def test_impute_is_kios_and_simple_imputer() -> None:
    values = [None if value < 10 else value for value in POSITIVE.tolist()]
    columns = [{"name": "a", "type": "number", "range": [0, 60], "optional": True}]
    ours = made([{"step": "impute", "column": "a", "value": 12.5}], columns, a=values)["a"]
    same(ours, ReplaceNoneValues("a", 12.5).transform(pd.DataFrame({"a": pd.Series(values, dtype=object)}))["a"])
    same(ours, SimpleImputer(strategy="constant", fill_value=12.5).fit_transform(np.array(values, dtype=float)[:, None]))


def test_keep_and_booleans_are_the_numbers() -> None:
    flags = (POSITIVE > 20).tolist()
    same(
        made([{"step": "keep", "column": "on"}], [{"name": "on", "type": "boolean"}], on=flags)["on"],
        np.array(flags, dtype=float),
    )


def test_one_hot_is_one_hot_encoder() -> None:
    values = RANDOM.choice(["x", "y", "z"], 100).tolist()
    ours = made(
        [{"step": "one_hot", "column": "c"}], [{"name": "c", "type": "category", "categories": ["z", "x", "y"]}], c=values
    )
    theirs = OneHotEncoder(sparse_output=False).fit_transform(np.array(values)[:, None])
    for place, name in enumerate("xyz"):
        same(ours[f"c_{name}"], theirs[:, place])


def test_multi_hot_is_kios_and_multi_label_binarizer() -> None:
    names = ["A", "B", "C"]
    values = [[name for name in names if RANDOM.random() < 0.5] for _ in range(100)]
    columns = [{"name": "l", "type": "list of categories", "categories": names}]
    ours = made([{"step": "multi_hot", "column": "l"}], columns, l=values)
    kios = MultiOneHotEncodePd("l", "l", "_", [f"l_{name}" for name in names]).transform(pd.DataFrame({"l": values}))
    binarized = MultiLabelBinarizer(classes=names).fit_transform(values)
    for place, name in enumerate(names):
        same(ours[f"l_{name}"], kios[f"l_{name}"])
        same(ours[f"l_{name}"], binarized[:, place])


def test_shares_and_drop_are_kios_on_the_real_films() -> None:
    dataset = Dataset.shipped("films", target="Ausformung")
    ours = Pipeline(dataset).process(films(dataset))
    table = pd.DataFrame(example_dataset)
    table["Massenanteile"] = [None if not isinstance(shares, list) else shares for shares in table["Massenanteile"]]
    needed = ["Anteil_K000055", "Anteil_K000057"]
    kios = NumericOneHotEncodePd(["ListeKomponenten", "Massenanteile"], "Anteil", "_", needed).transform(table.copy())
    kios = ColumnDropper(["Geometrie", "Masse", "CAD"]).transform(kios)
    for name in needed:
        same(ours[name], kios[name])
    assert not {"Geometrie", "Masse", "CAD"} & set(dataset.feature_names)


def test_date_parts_are_pythons_calendar() -> None:
    times = [
        datetime(1899, 12, 25, 3, 4, 5) + timedelta(days=int(day), seconds=int(day))
        for day in RANDOM.integers(0, 80_000, 400)
    ]
    times += [
        datetime(2000, 2, 29),
        datetime(2024, 12, 31),
        datetime(2100, 3, 1),
        datetime(1, 1, 1),
        datetime(9999, 12, 31, 23, 59, 59),
    ]
    form = "%d.%m.%Y, %H:%M:%S"
    parts = ["year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year"]
    texts = [f"{t.day}.{t.month:02}.{t.year:04}, {t:%H:%M:%S}" for t in times]
    ours = made(
        [{"step": "date_parts", "column": "t", "parts": parts}], [{"name": "t", "type": "datetime", "format": form}], t=texts
    )
    for part in parts[:6]:
        same(ours[f"t_{part}"], [getattr(t, part) for t in times])
    same(ours["t_weekday"], [t.isoweekday() for t in times])
    same(ours["t_day_of_year"], [t.timetuple().tm_yday for t in times])


def test_years_of_two_digits_are_those_that_python_reads() -> None:
    form, parts = "%d.%m.%y %H:%M", ["year", "month", "weekday", "day_of_year"]
    texts = [f"{1 + year % 28:02}.{1 + year % 12:02}.{year:02} 12:30" for year in range(100)] + ["29.02.00 00:00"]
    times = [datetime.strptime(text, form) for text in texts]
    columns = [{"name": "t", "type": "datetime", "format": form}]
    ours = made([{"step": "date_parts", "column": "t", "parts": parts}], columns, t=texts)
    same(ours["t_year"], [t.year for t in times])
    same(ours["t_month"], [t.month for t in times])
    same(ours["t_weekday"], [t.isoweekday() for t in times])
    same(ours["t_day_of_year"], [t.timetuple().tm_yday for t in times])
    assert [TimeFormat(form).parts(text) for text in texts] == [
        {"year": t.year, "month": t.month, "day": t.day, "hour": t.hour, "minute": t.minute, "second": 0,
         "weekday": t.isoweekday(), "day_of_year": t.timetuple().tm_yday} for t in times
    ]  # fmt: skip
    assert TimeFormat(form).parts("1.1.2024 00:00") is None
