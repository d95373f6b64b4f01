"""The declaration of a data set: columns, target and pipeline steps, from which everything else follows.

A data set is a YAML file (``dataset.yaml`` in the deployment's ``config_dir``); without one, the lab data set that ships with the
package is used. The file contains every number that processing needs (ranges, edges, fills); nothing is estimated from the records at
hand, so a record is processed in the same way alone and among a million.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, root_validator, validator

from complex_system.domain.collecting import Collecting
from complex_system.domain.collecting_faults import faults_of_collecting, parse_collecting
from complex_system.domain.columns import ID, MARKERS, Column, Declared
from complex_system.domain.intervals import Intervals, intervals
from complex_system.domain.keys import without_key
from complex_system.domain.partition import Split
from complex_system.domain.record_time import Time, faults_of_time
from complex_system.domain.steps import STEPS, Arithmetic, Bins, OneHot, Scale, Step
from complex_system.domain.validation import (
    FaultsError,
    choose_target,
    contradictions,
    doubles,
    faults_message,
    faults_of,
    faults_of_law,
    parsed,
    suggestion,
)
from complex_system.domain.yaml_reader import Fault, YamlFile
from complex_system.errors import DeclarationError

__all__ = ["ID", "SHIPPED", "Bins", "Column", "Dataset", "OneHot", "Scale", "Split", "Step"]

SHIPPED = ("lab", "films")
"""Declarations that are part of the package."""
Loss = Literal["squared", "absolute", "huber"]

_ALWAYS_DECISIVE = frozenset(
    {"name", "target", "columns", "pipeline", "type", "optional", "range", "fill", "categories", "format"}
    | {"step", "column", "prefix", "edges", "labels", "to"}
)
"""Keys that are always part of the version; other keys are where they differ from their defaults."""
_NAMES = {
    "name",
    "id",
    "target",
    "column",
    "columns",
    "shares",
    "by",
    "as",
    "prefix",
    "group",
    "unit",
    "description",
    "format",
    "machine",
    "things",
    "on",
    "from",
}
"""Keys of names and other texts: the name ``no`` is not false, and 2025 not a number."""


class Dataset(Declared):
    """A declared data set. ``Dataset.load(config_dir)`` is the usual way to get one."""

    name: str = Field(regex=r"^[a-z][a-z0-9_]*$", description="Short name: small letters, digits and _")
    description: str = Field("", description="For readers, and in the REST interface's documentation")
    id: str = Field(
        "", description="Column of the source that is the record's key, declared or not; none: keys are made at the source"
    )
    target: str = Field(description="The column to predict, of type number; of several, one is chosen when the file is read")
    other_targets: tuple[str, ...] = ()
    missing: tuple[str, ...] = Field(
        MARKERS, description="Texts that stand for a missing value; an empty one always does, a declared category never"
    )
    loss: Loss = Field(
        "squared", description="What trainings make small: squared or absolute errors, or Huber's loss between"
    )
    split: Split = Field(Split(), description="How labelled records are divided for training and evaluation")
    time: Time | None = Field(None, description="When a record was made; by default the time at which it arrived")
    collect: Collecting | None = Field(
        None, description="How records are made of single readings; by default they arrive whole"
    )
    law: Literal["laboratory"] | None = Field(
        None,
        description="Marks the demonstration: its target is a known function, so the smallest possible error is known, too",
    )
    columns: tuple[Column, ...] = Field(description="The raw columns")
    pipeline: tuple[Step, ...] = Field(description="The steps that make the features")

    @validator("columns")
    def _unique(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        if found := doubles([column.name for column in columns]):
            raise FaultsError(found)
        return columns

    @root_validator(pre=True)
    def _key_apart(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take the key's column out: its values are the keys, and are not kept a second time."""
        return without_key(values)

    @root_validator(skip_on_failure=True)
    def _fitting(cls, values: dict[str, Any]) -> dict[str, Any]:
        columns = {column.name: column for column in values["columns"]}
        targets = (values["target"], *values["other_targets"])
        found = contradictions(columns, targets, dict(enumerate(values["pipeline"])), key=values["id"])
        found += [*faults_of_time(values["time"], columns), *faults_of_law(values["law"], columns)]
        time = values["time"].column if values["time"] else ""
        found += faults_of_collecting(values["collect"], columns, targets, key=values["id"], time=time)
        if found := [*found, *values["split"].faults(columns, targets, values["id"])]:
            raise FaultsError(found)
        return values

    @classmethod
    def parse(cls, text: str, source: str = "dataset.yaml", *, target: str = "") -> Dataset:
        """Read a declaration.

        Args:
            text: YAML.
            source: Name of the file in messages.
            target: Which of several targets; empty where there is one.

        Raises:
            DeclarationError: The text is not a valid declaration; names all faults, each with line, key and what is allowed.
        """
        file = YamlFile(text, source, verbatim=("categories", "spellings", "labels", "missing"), names=_NAMES)
        if not isinstance(file.content, dict):
            raise file.error((), f"a declaration has the keys {', '.join(_KEYS)}")
        content = {str(key): value for key, value in file.content.items()}
        found = [*file.duplicates, *choose_target(content, target), *_all_faults(content)]
        if found:
            raise DeclarationError(faults_message(found, file))
        return cls.parse_obj(content)

    @classmethod
    def load(cls, config_dir: str | Path | None = None, *, target: str = "") -> Dataset:
        """Return the data set declared in ``config_dir/dataset.yaml``, or the lab data where the file does not exist.

        Args:
            config_dir: Folder of the declaration.
            target: Which of several targets; empty where there is one.

        Raises:
            DeclarationError: The file is not a valid declaration.
        """
        path = Path(config_dir) / "dataset.yaml" if config_dir else None
        if path and path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise DeclarationError(
                    f"{path} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8."
                ) from error
            return cls.parse(text, str(path), target=target)
        return cls.shipped("lab", target=target)

    @classmethod
    def shipped(cls, name: str, *, target: str = "") -> Dataset:
        """Return a data set of the package: one of ``SHIPPED``.

        Raises:
            DeclarationError: The package has none of that name, or a target must be chosen.
        """
        if name not in SHIPPED:
            raise DeclarationError(f"There is no data set '{name}' in the package; there are {', '.join(SHIPPED)}.")
        text = (resources.files("complex_system.domain") / f"{name}.yaml").read_text(encoding="utf-8")
        return cls.parse(text, f"{name}.yaml", target=target)

    @classmethod
    def restored(cls, content: Any) -> Dataset:
        """Read what :meth:`as_content` made, perhaps with another release of this software.

        Raises:
            DeclarationError: It is not a valid declaration in this release.
        """
        try:
            return cls.parse_obj(content)
        except ValidationError as error:
            raise DeclarationError(str(error.errors()[0]["msg"])) from error

    def as_content(self) -> dict[str, Any]:
        """Return the declaration as JSON, with its target chosen; models keep it, so that they can be served after it has changed."""
        content: dict[str, Any] = json.loads(self.json(by_alias=True))
        # What is not declared is left out: the release that reads it knows its own, and an older one does not know the key.
        for column, declared in zip(self.columns, content["columns"], strict=True):
            _drop_defaults(column, declared)
        if self.missing == MARKERS:
            del content["missing"]
        content["split"] = json.loads(self.split.json(exclude_defaults=True))
        if not content["split"]:
            del content["split"]
        # What concerns trainings and the records that are still to come, and no model.
        del content["time"], content["collect"], content["law"], content["loss"]
        return content

    _by_name: dict[str, Column] = PrivateAttr()
    _features: tuple[str, ...] = PrivateAttr()
    _version: str = PrivateAttr()

    def __init__(self, **content: Any) -> None:
        super().__init__(**content)
        if self.missing != MARKERS:
            marked = tuple(column.with_markers(self.missing) for column in self.columns)
            object.__setattr__(self, "columns", marked)
        self._by_name = {column.name: column for column in self.columns}
        self._features = tuple(sorted(name for step in self.pipeline for name in self.features_of(step)))
        self._version = self._hash()

    def column(self, name: str) -> Column:
        """Return the declared column of a name.

        Raises:
            KeyError: No column has that name.
        """
        return self._by_name[name]

    def features_of(self, step: Step) -> list[str]:
        """Return the names of the features that a step makes, in the step's order."""
        return step.feature_names(self._by_name)

    @property
    def by_name(self) -> dict[str, Column]:
        """The columns by their names."""
        return self._by_name

    @property
    def intervals(self) -> Intervals:
        """The smallest and largest value of every number that steps take or make."""
        return intervals(self.pipeline, self._by_name)

    @property
    def targets(self) -> tuple[str, ...]:
        """All declared targets, the chosen one first."""
        return (self.target, *self.other_targets)

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
    def copies_together(self) -> bool:
        """Whether records with the same features and target are copies, which belong into one part of the split.

        Where every feature is a category, a boolean or a bin, equal records are expected, and not copies.
        """
        if self.split.copies:
            return self.split.copies == "together"
        inputs = [name for step in self.pipeline if isinstance(step, Arithmetic) for name in step.inputs]
        return any(self._by_name[name].type != "boolean" for name in inputs if name in self._by_name)

    @property
    def split_rule(self) -> str:
        """What the split goes by, as models are marked with it; models of different rules are not compared."""
        return self.split.rule(copies_together=self.copies_together, time=self.time.column if self.time else "")

    @property
    def version(self) -> str:
        """The pipeline version: 12 hex digits of a hash of everything that decides how a record is processed."""
        return self._version

    def _hash(self) -> str:
        decisive = self.dict(exclude={"description", "id", "other_targets", "split", "time", "collect", "law", "loss"})
        for column in decisive["columns"]:
            del column["description"], column["unit"]
        declared: tuple[Declared, ...] = (*self.columns, *self.pipeline)
        if self.missing == MARKERS:
            del decisive["missing"]
        else:
            decisive["missing"] = sorted({*self.missing})
        for part, content in zip(declared, [*decisive["columns"], *decisive["pipeline"]], strict=True):
            _drop_defaults(part, content)
        decisive["pipeline"] = [step for step in decisive["pipeline"] if step["step"] != "drop"]
        canonical = json.dumps(decisive, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


_KEYS = tuple(name for name in Dataset.__fields__ if name != "other_targets")


def _drop_defaults(declared: Declared, content: dict[str, Any]) -> None:
    for name, field in type(declared).__fields__.items():
        if name not in _ALWAYS_DECISIVE and content.get(name) == field.default:
            content.pop(name, None)


def _all_faults(content: dict[str, Any]) -> list[Fault]:
    """Return the faults of every part, and the contradictions between the parts that have none."""
    parts = {key: list(content[key]) for key in ("columns", "pipeline") if isinstance(content.get(key), list | tuple)}
    found: list[Fault] = []
    inside: dict[str, type[Declared]] = {"split": Split, "time": Time}
    for key in (key for key in inside if content.get(key) is not None):
        part = parsed(inside[key], content[key], (key,), found)
        content = {name: each for name, each in content.items() if name != key} | ({key: part} if part else {})
    collecting = None if content.get("collect") is None else parse_collecting(content["collect"], found)
    content["collect"] = collecting
    try:
        Dataset.parse_obj({**content, **{key: [] for key in parts}, "time": None, "collect": None})
    except ValidationError as error:
        found += [fault for fault in faults_of(error, _KEYS) if fault[0]]
    columns: dict[str, Column] = {}
    broken: set[str] = set()
    for place, each in enumerate(parts.get("columns", ())):
        if column := parsed(Column, each, ("columns", place), found):
            columns[column.name] = column
        elif isinstance(each, dict):
            broken.add(str(each.get("name")))
    steps: dict[int, Step] = {}
    for place, each in enumerate(parts.get("pipeline", ())):
        name = each.get("step") if isinstance(each, dict) else None
        if kind := STEPS.get(name) if isinstance(name, str) else None:
            if step := parsed(kind, each, ("pipeline", place), found):
                steps[place] = step
        else:
            given = "" if name is None else f", not '{name}'{suggestion(name, STEPS)}"
            found.append((("pipeline", place, "step"), f"must be one of {', '.join(STEPS)}{given}"))
    found += doubles([each.get("name") if isinstance(each, dict) else None for each in parts.get("columns", ())])
    found += [*faults_of_time(content.get("time"), columns, broken), *faults_of_law(content.get("law"), {*columns, *broken})]
    if len(parts) == 2 and isinstance(content.get("target"), str):
        targets = (content["target"], *content.get("other_targets", ()))
        key, complete = str(content.get("id") or ""), len(steps) == len(parts["pipeline"])
        found += contradictions(columns, targets, steps, key=key, broken=broken, complete=complete)
        time = content["time"].column if isinstance(content.get("time"), Time) else ""
        found += faults_of_collecting(collecting, columns, targets, key=key, time=time, broken=broken)
        if not broken and isinstance(split := content.get("split"), Split):
            found += split.faults(columns, targets, key)
    return found
