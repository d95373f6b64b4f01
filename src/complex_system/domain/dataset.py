"""The declaration of a data set: columns, target and pipeline steps, from which everything else follows.

A data set is a YAML file (``dataset.yaml`` in the deployment's ``config_dir``). Where there is none, the lab data set that
ships with the package is used. Every number that processing needs (ranges, edges, fills) stands in the file; nothing is
estimated from the records at hand, so a record is processed alike alone and among a million.
"""

from __future__ import annotations

import hashlib
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, root_validator, validator

from complex_system.errors import DeclarationError

ID = "_id"
"""Name of the key column, in raw and in processed records, in both databases."""


class _Declared(BaseModel):
    class Config:
        extra = "forbid"
        frozen = True


class Column(_Declared):
    """One raw column.

    Attributes:
        range: Smallest and largest value that is processed, both included, in the column's own unit.
        fill: What stands in for a missing number, in the column's own unit.
    """

    name: str = Field(min_length=1)
    type: Literal["number", "category", "text", "datetime"]
    description: str = ""
    unit: str = ""
    optional: bool = False
    range: tuple[float, float] | None = None
    fill: float | None = None
    categories: tuple[str, ...] = ()
    format: str = ""

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, Any]) -> dict[str, Any]:
        name, kind = values["name"], values["type"]
        if kind == "category" and not values["categories"]:
            raise ValueError(f"column '{name}' is a category and declares no categories")
        if values["range"]:
            low, high = values["range"]
            if not (-math.inf < low < high < math.inf):
                raise ValueError(f"column '{name}' declares an empty or infinite range {[low, high]}")
            if values["fill"] is not None and not low <= values["fill"] <= high:
                raise ValueError(f"column '{name}' declares a fill of {values['fill']} outside of its range {[low, high]}")
        if name == ID:
            raise ValueError(f"'{ID}' is the key and cannot be declared as a column")
        return values


class OneHot(_Declared):
    """One feature a category, named ``<prefix>_<category>``: 1.0 where it applies. A missing value gives all zeros."""

    step: Literal["one_hot"]
    column: str
    prefix: str = ""

    def feature_names(self, column: Column) -> list[str]:
        """Names of the features that this step makes of ``column``."""
        return [f"{self.prefix or self.column}_{category}" for category in column.categories]


class Bins(_Declared):
    """One feature a bin, named ``<prefix>_<label>``: intervals closed on the right, the first one on both sides."""

    step: Literal["bins"]
    column: str
    prefix: str = ""
    edges: tuple[float, ...]
    labels: tuple[str, ...]

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, Any]) -> dict[str, Any]:
        edges, labels = values["edges"], values["labels"]
        if len(edges) < 2 or list(edges) != sorted(set(edges)):
            raise ValueError(f"the bin edges of '{values['column']}' must rise")
        if len(labels) != len(edges) - 1 or len(set(labels)) != len(labels):
            raise ValueError(f"'{values['column']}' needs {len(edges) - 1} different bin labels, one fewer than edges")
        return values

    def feature_names(self, column: Column) -> list[str]:
        """Names of the features that this step makes of ``column``."""
        return [f"{self.prefix or self.column}_{label}" for label in self.labels]


class Scale(_Declared):
    """The column's declared range is mapped linearly to ``to``; the feature keeps the column's name."""

    step: Literal["scale"]
    column: str
    to: tuple[float, float] = (0.0, 1.0)

    def feature_names(self, column: Column) -> list[str]:
        """Names of the features that this step makes of ``column``."""
        return [column.name]


Step = OneHot | Bins | Scale


class Dataset(_Declared):
    """A declared data set. ``Dataset.load(config_dir)`` is the usual way to get one."""

    name: str = Field(regex=r"^[a-z][a-z0-9_]*$")
    description: str = ""
    target: str
    columns: tuple[Column, ...]
    pipeline: tuple[Step, ...]

    @validator("columns")
    def _unique(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [column.name for column in columns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"column '{name}' is declared more than once")
        return columns

    @root_validator(skip_on_failure=True)
    def _steps_fit_columns(cls, values: dict[str, Any]) -> dict[str, Any]:
        columns = {column.name: column for column in values["columns"]}
        target = columns.get(values["target"])
        if target is None or target.type != "number":
            raise ValueError(f"the target '{values['target']}' must be one of the columns, of type number")
        seen: list[str] = []
        for step in values["pipeline"]:
            column = columns.get(step.column)
            if column is None:
                raise ValueError(f"pipeline step {step.step} names the unknown column '{step.column}'")
            if column.name == values["target"]:
                raise ValueError(f"pipeline step {step.step} must not use the target '{column.name}'")
            if (step.step == "one_hot") != (column.type == "category"):
                raise ValueError(f"pipeline step {step.step} does not fit '{column.name}' of type {column.type}")
            if column.type == "number" and column.range is None:
                raise ValueError(f"column '{column.name}' needs a range for step {step.step}")
            if (
                isinstance(step, Bins)
                and column.range
                and not (step.edges[0] <= column.range[0] and column.range[1] <= step.edges[-1])
            ):
                raise ValueError(f"the bins of '{column.name}' must cover its range {list(column.range)}")
            if column.type == "number" and column.optional and column.fill is None:
                raise ValueError(f"column '{column.name}' is optional and needs a fill for step {step.step}")
            seen += step.feature_names(column)
        doubles = sorted({name for name in seen if seen.count(name) > 1})
        if doubles or not seen or values["target"] in seen:
            raise ValueError(f"the pipeline must make features of different names, not twice {doubles or 'nothing'}")
        return values

    @classmethod
    def parse(cls, text: str, source: str = "dataset.yaml") -> Dataset:
        """Reads a declaration.

        Raises:
            DeclarationError: The text is no valid declaration; the sentence names place and reason.
        """
        try:
            content = yaml.safe_load(text)
            return cls.parse_obj(content)
        except yaml.YAMLError as error:
            raise DeclarationError(f"{source} is not YAML: {error}") from error
        except ValidationError as error:
            places = "; ".join(
                f"{'.'.join(str(part) for part in fault['loc'] if part != '__root__') or 'top level'}: {fault['msg']}"
                for fault in error.errors()[:5]
            )
            raise DeclarationError(f"{source}: {places}") from error

    @classmethod
    def load(cls, config_dir: str | Path | None = None) -> Dataset:
        """The data set declared in ``config_dir/dataset.yaml``, or the lab data where there is no such file.

        Raises:
            DeclarationError: The file is no valid declaration.
        """
        path = Path(config_dir) / "dataset.yaml" if config_dir else None
        if path and path.is_file():
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        shipped = resources.files("complex_system.domain") / "lab.yaml"
        return cls.parse(shipped.read_text(encoding="utf-8"), "lab.yaml")

    _by_name: dict[str, Column] = PrivateAttr()
    _features: tuple[str, ...] = PrivateAttr()
    _version: str = PrivateAttr()

    def __init__(self, **content: Any) -> None:
        super().__init__(**content)
        self._by_name = {column.name: column for column in self.columns}
        names = (name for step in self.pipeline for name in step.feature_names(self.column(step.column)))
        self._features = tuple(sorted(names))
        self._version = self._hash()

    def column(self, name: str) -> Column:
        """The declared column of that name.

        Raises:
            KeyError: There is none.
        """
        return self._by_name[name]

    @property
    def raw_names(self) -> tuple[str, ...]:
        """Names of the raw columns as declared, without the key."""
        return tuple(self._by_name)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, sorted: the order in which models take them and databases keep them."""
        return self._features

    @property
    def processed_names(self) -> tuple[str, ...]:
        """The order of a processed record: key, target, features."""
        return (ID, self.target, *self._features)

    @property
    def version(self) -> str:
        """The pipeline version: 12 hex digits of a hash over all that decides how a record is processed."""
        return self._version

    def _hash(self) -> str:
        decisive = self.dict(exclude={"description"})
        for column in decisive["columns"]:
            del column["description"], column["unit"]
        canonical = json.dumps(decisive, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]
