"""The pipeline with scikit-learn's transformer interface, for notebooks and for pipelines of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from complex_system.domain.dataset import Dataset
from complex_system.errors import InvalidRequestError
from complex_system.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    import pandas as pd


class PipelineTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Makes the declared features of raw records. Nothing is estimated: ``fit`` only compiles the declaration.

    Args:
        dataset: The declared data set; the lab data when it is None.

    Attributes:
        pipeline_: The compiled pipeline.
    """

    def __init__(self, dataset: Dataset | None = None) -> None:
        self.dataset = dataset

    def fit(self, X: pd.DataFrame | pl.DataFrame, y: object = None) -> Self:
        """Compile the declared steps and check that the columns fit them; ``y`` is ignored."""
        frame = _as_polars(X)
        pipeline = Pipeline(self.dataset or Dataset.load())
        pipeline.typed(frame.head(0))
        self.pipeline_ = pipeline
        self.feature_names_in_ = np.asarray(frame.columns, dtype=object)
        self.n_features_in_ = frame.width
        return self

    def transform(self, X: pd.DataFrame | pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return the features of raw records, found by column name.

        Args:
            X: Raw records as a pandas or polars frame; NaN in a pandas frame is a missing value, as pandas has it.

        Returns:
            Shape (records, features), float64; ``set_output`` of scikit-learn makes frames of it.

        Raises:
            InvalidRecordError: A record cannot be processed; names the first faults.
            InvalidRequestError: A required column is missing or has another type.
        """
        check_is_fitted(self, "pipeline_")
        processed = self.pipeline_.transform(_as_polars(X))
        return processed.select(self.pipeline_.dataset.feature_names).to_numpy()

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the features, sorted as in ``Dataset.feature_names``; ``input_features`` is ignored."""
        check_is_fitted(self, "pipeline_")
        return np.asarray(self.pipeline_.dataset.feature_names, dtype=object)


def _as_polars(table: Any) -> pl.DataFrame:
    if isinstance(table, pl.DataFrame):
        return table
    try:
        frame: pl.DataFrame = pl.from_pandas(table)
    except TypeError as error:
        raise InvalidRequestError(f"A pandas or polars frame is expected, not {type(table).__name__}.") from error
    return frame
