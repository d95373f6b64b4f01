"""The pipeline against others' code: kio's transformers and pandas.cut give the same values, column by column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from kio.pipeline_operations import ColumnDropper, NormalizeCols, OneHotEncodePd, ReplaceNoneValues
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import InvalidRecordError, InvalidRequestError
from complex_system.pipeline.pipeline import Pipeline
from complex_system.pipeline.sklearn import PipelineTransformer

R1, R2, R3 = (f"rohwert_{i}_labormessung" for i in (1, 2, 3))


@pytest.fixture
def records(laboratory: Laboratory) -> list[Record]:
    """Random records, and each bin edge and end of a range."""
    edges = [
        {**laboratory.complete_record(), R1: edge, R2: edge, R3: edge / 15} for edge in (0.0, 6.0, 12.0, 18.0, 24.0, 30.0)
    ]
    return [*laboratory.records(3000), *edges]


def with_kio(records: list[Record], dataset: Dataset) -> pd.DataFrame:
    """The same features by kio's transformers, one after another, and by pandas.cut for the bins."""
    x = pd.DataFrame(records).astype(object)
    x = x.where(x.notna(), None)
    for name, fill in ((R1, 15.0), (R2, 15.0), (R3, 0.5)):
        x = ReplaceNoneValues(name, fill).transform(x)
    x["rohwert_1"] = pd.cut(
        x[R1].astype(float), bins=[0, 6, 12, 18, 24, 30], include_lowest=True,
        labels=["very_low", "low", "medium", "high", "very_high"],
    ).astype(str)  # fmt: skip
    for name in ("material_id", "laborant", "rohwert_1"):
        needed = [feature for feature in dataset.feature_names if feature.startswith(f"{name}_")]
        x = OneHotEncodePd(name, name, "_", [feature for feature in needed if feature not in (R2, R3)]).transform(x)
    x = NormalizeCols((0, 30), R2, (0.0, 1.0)).transform(x)
    x = NormalizeCols((0, 2), R3, (-1.0, 1.0)).transform(x)
    return ColumnDropper(["_id", "datum", R1, dataset.target]).transform(x)


def test_every_feature_equals_kios(records: list[Record], dataset: Dataset) -> None:
    ours = Pipeline(dataset).process(records)
    theirs = with_kio(records, dataset)
    assert set(theirs.columns) == set(dataset.feature_names)
    for name in dataset.feature_names:
        expected = theirs[name].to_numpy(dtype=float)
        # A scale is a factor here and a product and a quotient there: at most the last bits differ.
        np.testing.assert_allclose(ours.get_column(name).to_numpy(), expected, rtol=0, atol=4e-16, err_msg=name)
        assert expected.std() > 0


def test_the_transformer_gives_the_pipelines_features(records: list[Record], dataset: Dataset) -> None:
    expected = Pipeline(dataset).process(records).select(dataset.feature_names).to_numpy()
    pandas = pd.DataFrame(records)
    transformer = PipelineTransformer(dataset)
    np.testing.assert_array_equal(transformer.fit_transform(pandas), expected)
    np.testing.assert_array_equal(transformer.transform(pandas[pandas.columns[::-1]]), expected)
    np.testing.assert_array_equal(transformer.transform(pl.DataFrame(records, infer_schema_length=None)), expected)
    assert transformer.get_feature_names_out().tolist() == list(dataset.feature_names)


def test_the_transformer_is_scikit_learns(records: list[Record], dataset: Dataset) -> None:
    transformer = clone(PipelineTransformer(dataset)).set_output(transform="pandas")
    frame = transformer.fit(pd.DataFrame(records)).transform(pd.DataFrame(records[:5]))
    assert list(frame.columns) == list(dataset.feature_names)
    assert transformer.get_params()["dataset"] == dataset
    assert PipelineTransformer().fit(pd.DataFrame(records)).pipeline_.dataset.name == "lab"
    labelled = pd.DataFrame([record for record in records if record[dataset.target] is not None])
    model = make_pipeline(PipelineTransformer(), LinearRegression()).fit(labelled, labelled[dataset.target])
    assert model.score(labelled, labelled[dataset.target]) > 0.9


def test_statistics_are_not_estimated(records: list[Record], dataset: Dataset) -> None:
    few = PipelineTransformer(dataset).fit(pd.DataFrame(records[:1]))
    many = PipelineTransformer(dataset).fit(pd.DataFrame(records))
    np.testing.assert_array_equal(few.transform(pd.DataFrame(records)), many.transform(pd.DataFrame(records)))


def test_the_transformer_names_what_it_cannot_take(records: list[Record], dataset: Dataset) -> None:
    transformer = PipelineTransformer(dataset)
    with pytest.raises(InvalidRequestError, match="material_id are required"):
        transformer.fit(pd.DataFrame(records).drop(columns=["material_id"]))
    with pytest.raises(InvalidRequestError, match="A pandas or polars frame is expected, not list"):
        transformer.fit(records)
    transformer.fit(pd.DataFrame(records))
    bad = pd.DataFrame([records[0], {**records[1], R2: 31.0}])
    with pytest.raises(InvalidRecordError, match=r"Record 1 .*31.0 is outside of \[0, 30\]"):
        transformer.transform(bad)
