"""The declared pipeline as a graph of standard ONNX operators, in front of a model: raw columns in, prediction out.

Whoever has ``onnxruntime`` predicts from raw values with it, without this software. Numbers are doubles and the operations those of
``arithmetic``, in the same order, so that the features are those of ``rows`` and ``expressions``; only a logarithm or an exponential
may differ in its last bit. A record that ``checks`` would refuse has NaN as its prediction.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from complex_system.domain.columns import LISTS, Column
from complex_system.domain.dataset import Dataset
from complex_system.domain.steps import Arithmetic, Bins, DateParts, Drop, Impute, MultiHot, OneHot, Shares, Step
from complex_system.pipeline.arithmetic import compiled
from complex_system.pipeline.checks import SHARES_TOLERANCE, checks, range_text

log = logging.getLogger(__name__)

RAW_ONNX_FILE = "raw.onnx"
"""Name of the file beside a version's ONNX model."""
PREDICTION = "prediction"
"""Name of the output: float32 of shape (n, 1), in the target's own unit; NaN for a record that ``/predict`` refuses."""
_FEATURES, _VALID = "features", "valid"
_OPSET, _IR_VERSION = 17, 9
_UNKNOWN = -1
_SHOWN = 60
"""Categories that the description of an input names at most."""


class NotExportableError(ValueError):
    """The pipeline has a step that standard ONNX operators do not have; the message names it."""


def with_raw_onnx(dataset: Dataset, onnx_model: bytes, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a version and ``raw.onnx``; without it where it cannot be made, because the model matters more."""
    try:
        return {**files, RAW_ONNX_FILE: raw_onnx(dataset, onnx_model)}
    except NotExportableError as error:
        log.info("The model has no %s: %s", RAW_ONNX_FILE, error)
    except Exception:
        log.exception("The model has no %s", RAW_ONNX_FILE)
    return dict(files)


def raw_onnx(dataset: Dataset, onnx_model: bytes) -> bytes:
    """Return a model with its pipeline in front.

    Args:
        dataset: Declares the pipeline.
        onnx_model: Input ``features`` of shape (n, features), output of shape (n, 1).

    Returns:
        An ONNX model with an input for each raw column that a step takes, named as the column, of shape (n, 1): a double for
        numbers, integers and booleans (0 or 1), NaN where it is missing; a text for a category, empty where it is missing. A list is
        of shape (n, longest list), texts padded with empty ones and shares with NaN.

    Raises:
        NotExportableError: The pipeline cannot be expressed.
    """
    import onnx
    from onnx import TensorProto, compose, helper, version_converter

    pipeline = _PipelineGraph(dataset)
    model = onnx.load_from_string(onnx_model)
    if any(each.domain == "" and each.version < _OPSET for each in model.opset_import):
        model = version_converter.convert_version(model, _OPSET)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    opsets = {"ai.onnx.ml": 1} | {each.domain: each.version for each in model.opset_import}
    front = helper.make_model(
        pipeline.graph(),
        opset_imports=list(itertools.starmap(helper.make_opsetid, opsets.items())),
        ir_version=model.ir_version,
    )
    name = pipeline.prefixed("model/")
    merged = compose.merge_models(
        front, model, io_map=[(pipeline.prefixed(_FEATURES), model.graph.input[0].name)], prefix2=name
    )
    inner, valid = name + model.graph.output[0].name, pipeline.prefixed(_VALID)
    nan = pipeline.prefixed("nan")
    merged.graph.initializer.append(helper.make_tensor(nan, TensorProto.FLOAT, [], [np.nan]))
    merged.graph.node.append(helper.make_node("Where", [valid, inner, nan], [PREDICTION]))
    del merged.graph.output[:]
    merged.graph.output.append(helper.make_tensor_value_info(PREDICTION, TensorProto.FLOAT, ["n", 1]))
    props = {"dataset": dataset.name, "target": dataset.target, "pipeline_version": dataset.version}
    helper.set_model_props(merged, props)
    onnx.checker.check_model(merged)
    encoded: bytes = merged.SerializeToString()
    return encoded


class _Tensor:
    """A tensor of a graph that is being made; every operation adds a node."""

    def __init__(self, graph: _PipelineGraph, name: str) -> None:
        self.graph = graph
        self.name = name

    def node(self, operator: str, *others: Any, **attributes: Any) -> _Tensor:
        return self.graph.node(operator, self, *others, **attributes)

    def __add__(self, other: Any) -> _Tensor:
        return self.node("Add", other)

    def __sub__(self, other: Any) -> _Tensor:
        return self.node("Sub", other)

    def __mul__(self, other: Any) -> _Tensor:
        return self.node("Mul", other)

    def __truediv__(self, other: Any) -> _Tensor:
        return self.node("Div", other)

    def __and__(self, other: _Tensor) -> _Tensor:
        return self.node("And", other)

    def __or__(self, other: _Tensor) -> _Tensor:
        return self.node("Or", other)

    def __invert__(self) -> _Tensor:
        return self.node("Not")

    def __gt__(self, other: Any) -> _Tensor:
        return self.node("Greater", other)

    def equals(self, other: Any) -> _Tensor:
        return self.node("Equal", other)

    def within(self, low: float, high: float) -> _Tensor:
        return self.node("GreaterOrEqual", low) & self.node("LessOrEqual", high)

    def clip(self, low: float, high: float) -> _Tensor:
        return self.node("Clip", low, high)

    def log(self) -> _Tensor:
        return self.node("Log")

    def exp(self) -> _Tensor:
        return self.node("Exp")

    def double(self) -> _Tensor:
        return self.graph.cast(self, np.float64)

    def summed(self, axis: int) -> _Tensor:
        return self.node("ReduceSum", np.array([axis]), keepdims=0)

    def with_axis(self, axis: int) -> _Tensor:
        return self.node("Unsqueeze", np.array([axis]))


class _PipelineGraph:
    """Compiles the steps of one data set."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._needed = {check.field: check.needed for check in checks(dataset) if check.field != dataset.target}
        # No tensor of the graph may have a column's name.
        self._prefix = "/"
        while any(name.startswith(self._prefix) for name in self._needed):
            self._prefix += "/"
        if PREDICTION in self._needed:
            raise NotExportableError(f"the column '{PREDICTION}' has the name of the output")
        self._valid: list[_Tensor] = []
        self._read: dict[str, _Tensor] = {}
        self._results: dict[str, _Tensor] = {}
        made = [each for step in dataset.pipeline for each in self._features(step)]
        names = [name for step in dataset.pipeline for name in dataset.features_of(step)]
        # Steps make several features at a time, of shape (n, several).
        order = np.array([names.index(name) for name in dataset.feature_names])
        together = self.node("Gather", self.node("Concat", *made, axis=1), order, axis=1)
        self.cast(together, np.float32, _FEATURES)
        valid = self._valid[0]
        for each in self._valid[1:]:
            valid &= each
        valid.node("Identity", output=_VALID)

    def prefixed(self, name: str) -> str:
        """Return the name of a tensor of the graph."""
        return self._prefix + name

    def graph(self) -> Any:
        """Return the graph, with the outputs ``features`` and ``valid``."""
        from onnx import TensorProto, helper

        inputs = []
        partner = {step.shares: step.column for step in self._dataset.pipeline if isinstance(step, Shares)}
        for column in self._dataset.columns:
            if column.name in self._needed:
                kind = TensorProto.STRING if column.categories else TensorProto.DOUBLE
                entries = f"entries of {partner.get(column.name, column.name)}"
                shape = ["n", entries if column.type in LISTS else 1]
                inputs.append(helper.make_tensor_value_info(column.name, kind, shape, doc_string=_about(column)))
        outputs = [
            helper.make_tensor_value_info(
                self.prefixed(_FEATURES), TensorProto.FLOAT, ["n", len(self._dataset.feature_names)]
            ),
            helper.make_tensor_value_info(self.prefixed(_VALID), TensorProto.BOOL, ["n", 1]),
        ]
        return helper.make_graph(self._nodes, "pipeline", inputs, outputs, self._constants)

    def node(self, operator: str, *inputs: Any, output: str = "", **attributes: Any) -> _Tensor:
        """Add a node; numbers and arrays among its inputs become constants."""
        from onnx import helper

        name = self.prefixed(output or str(len(self._nodes)))
        names = [self._tensor(each).name for each in inputs]
        self._nodes.append(helper.make_node(operator, names, [name], **attributes))
        return _Tensor(self, name)

    def cast(self, tensor: _Tensor, to: Any, output: str = "") -> _Tensor:
        from onnx import helper

        return self.node("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)), output=output)

    def _tensor(self, value: Any) -> _Tensor:
        from onnx import numpy_helper

        if isinstance(value, _Tensor):
            return value
        name = self.prefixed(f"constant {len(self._constants)}")
        array: npt.NDArray[Any] = np.asarray(value, None if isinstance(value, np.ndarray) else np.float64)
        self._constants.append(numpy_helper.from_array(array, name))
        return _Tensor(self, name)

    def _features(self, step: Step) -> list[_Tensor]:
        columns = self._dataset.by_name
        match step:
            case Drop():
                return []
            case OneHot():
                column = columns[step.column]
                return [self._places(column).equals(np.arange(len(column.categories))).double()]
            case MultiHot():
                return [self._hot(columns[step.column]).summed(1)]
            case Shares():
                return [self._shares(columns[step.column], columns[step.shares])]
            case DateParts():
                raise NotExportableError(f"the step {step.step} of '{step.column}' has no standard ONNX operators")
            case Bins():
                return _bins(step, self._number(step.column))
            case Impute():
                result = self._number(step.column, step.value)
            case _:
                assert isinstance(step, Arithmetic)
                function = compiled(step, self._dataset.intervals, _Tensor.log, _Tensor.exp, _Tensor.clip)
                result = function(*map(self._number, step.inputs))
        if step.as_ and step.as_ not in columns:
            self._results[step.as_] = result
        return [result] if step.feature else []

    def _number(self, name: str, fill: float | None = None) -> _Tensor:
        """Return a raw number or a result, of shape (n, 1), with the fill where it is missing."""
        if name in self._results:
            return self._results[name]
        column, value = self._dataset.column(name), _Tensor(self, name)
        missing = value.node("IsNaN")
        for each in column.missing_values:
            missing |= value.equals(each)
        if name not in self._read:
            self._read[name] = value
            inside = value.within(*column.accepted)
            if column.type in ("integer", "boolean"):
                inside &= value.equals(value.node("Floor"))
            self._valid.append(inside & ~missing if self._needed[name] else inside | missing)
        if column.outside == "clip" and column.range:
            value = value.clip(*column.range)
        if fill is None and column.fill is not None:
            fill = float(column.fill)
        return value if fill is None else missing.node("Where", fill, value)

    def _places(self, column: Column) -> _Tensor:
        """Return the places of texts among the categories, int64; their number for a missing one without a fill."""
        if column.name in self._read:
            return self._read[column.name]
        categories = list(column.categories)
        places = {text: categories.index(category) for text, category in column.spelled.items()}
        places |= {category: place for place, category in enumerate(categories)}
        if column.type in LISTS:
            if "" in places:
                raise NotExportableError(f"the list '{column.name}' has the empty category, which pads lists here")
            places[""] = len(categories)
        elif not self._needed[column.name]:
            missing = len(categories) if column.fill is None else categories.index(str(column.fill))
            places = dict.fromkeys(column.markers, missing) | places
        found = self.node(
            "CategoryMapper", _Tensor(self, column.name), domain="ai.onnx.ml", cats_strings=list(places),
            cats_int64s=list(places.values()), default_int64=_UNKNOWN,
        )  # fmt: skip
        self._read[column.name] = found
        self._all(found > np.array(_UNKNOWN))
        return found

    def _all(self, entries: _Tensor) -> None:
        """Have a record valid only where all of its entries are; shape (n, entries)."""
        self._valid.append((~entries).double().summed(1).equals(0.0).with_axis(1))

    def _hot(self, column: Column) -> _Tensor:
        """Return which category each entry of a list is: 1.0 or 0.0, of shape (n, entries, categories)."""
        first = column.name not in self._read
        hot = self._places(column).with_axis(2).equals(np.arange(len(column.categories))).double()
        if first:  # an entry may not be there twice
            self._all(~(hot.summed(1) > 1.0))
        return hot

    def _shares(self, column: Column, of: Column) -> _Tensor:
        hot, parts = self._hot(column), _Tensor(self, of.name)
        is_entry = self._places(column).node("Less", np.array(len(column.categories)))
        missing = parts.node("IsNaN")
        none_given = (~missing).double().summed(1).equals(0.0).with_axis(1)
        entries = is_entry.double().summed(1).with_axis(1)
        share = missing.node("Where", 0.0, parts)
        made = (hot * none_given.node("Where", 1.0, share).with_axis(2)).summed(1)
        lone = none_given & ~(entries > 1.0)
        fitting = is_entry.node("Xor", missing) & (missing | share.within(0.0, 1.0))
        fit = (~fitting).double().summed(1).equals(0.0).with_axis(1)
        whole = (made.summed(1).with_axis(1) - 1.0).within(-SHARES_TOLERANCE, SHARES_TOLERANCE)
        self._valid.append(lone | (fit & whole))
        return made


def _bins(step: Bins, value: _Tensor) -> list[_Tensor]:
    """Return one tensor a bin; as in ``expressions``, only the inner edges count."""
    above = [value > edge for edge in step.edges[1:-1]]
    if not above:
        return [value.equals(value).double()]
    inside = [~above[0], *(low & ~high for low, high in itertools.pairwise(above)), above[-1]]
    return [each.double() for each in inside]


def _about(column: Column) -> str:
    """Return what the description of an input says of its column."""
    shown: Sequence[str] = column.categories[:_SHOWN]
    found = [
        column.description,
        f"unit: {column.unit}" if column.unit else "",
        f"range: {range_text(column.range)}" if column.range else "",
        f"categories: {', '.join(shown)}{', ...' if len(column.categories) > len(shown) else ''}" if shown else "",
        "may be missing" if column.optional else "",
    ]
    return "; ".join(each for each in found if each)
