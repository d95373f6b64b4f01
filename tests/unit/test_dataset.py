"""The declaration of a data set: what it refuses, what follows from it, and when the pipeline version changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError

SMALL: dict[str, Any] = {
    "name": "ovens",
    "description": "Ovens",
    "target": "quality",
    "columns": [
        {"name": "mode", "type": "category", "categories": ["a", "b"], "description": "Mode"},
        {"name": "heat", "type": "number", "range": [0, 100], "optional": True, "fill": 20, "unit": "K"},
        {"name": "quality", "type": "number", "optional": True},
    ],
    "pipeline": [
        {"step": "one_hot", "column": "mode"},
        {"step": "bins", "column": "heat", "prefix": "heat", "edges": [0, 50, 100], "labels": ["low", "high"]},
        {"step": "scale", "column": "heat", "to": [-1, 1]},
    ],
}


def changed(*place: str | int, to: Any) -> str:
    """The small declaration as YAML with one place changed."""
    content = yaml.safe_load(yaml.safe_dump(SMALL))
    part = content
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = to
    return str(yaml.safe_dump(content))


def version(*place: str | int, to: Any) -> str:
    return Dataset.parse(changed(*place, to=to)).version


def test_the_lab_data_have_exactly_the_order_of_the_contract(dataset: Dataset) -> None:
    assert dataset.processed_names == (
        "_id",
        "aufbereiteter_wert",
        "laborant_AN",
        "laborant_HANS",
        "laborant_SO",
        "laborant_TK",
        "material_id_00000000",
        "material_id_11111111",
        "material_id_22222222",
        "material_id_33333333",
        "rohwert_1_high",
        "rohwert_1_low",
        "rohwert_1_medium",
        "rohwert_1_very_high",
        "rohwert_1_very_low",
        "rohwert_2_labormessung",
        "rohwert_3_labormessung",
    )
    assert len(dataset.feature_names) == 15
    assert dataset.raw_names == (
        "material_id",
        "datum",
        "laborant",
        "rohwert_1_labormessung",
        "rohwert_2_labormessung",
        "rohwert_3_labormessung",
        "aufbereiteter_wert",
    )


def test_a_declared_data_set_is_read_from_the_config_dir(tmp_path: Path) -> None:
    assert Dataset.load(tmp_path).name == "lab"
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(SMALL))
    dataset = Dataset.load(tmp_path)
    assert dataset.name == "ovens"
    assert dataset.feature_names == ("heat", "heat_high", "heat_low", "mode_a", "mode_b")
    assert dataset.column("heat").unit == "K"


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("name: [")
    with pytest.raises(DeclarationError, match=r"dataset\.yaml is not YAML"):
        Dataset.load(tmp_path)
    for text, said in (
        ("name: x\ncolumns:\n\t- {name: a}\n", "line 3: found character .* indent lines with spaces only"),
        (
            "name: x\ncolumns:\n  - {name: a, type: number\n  - {name: b}\n",
            r"line 4 \(in the part that starts in line 3\): expected .* bracket",
        ),
    ):
        with pytest.raises(DeclarationError, match=f"dataset.yaml is not YAML: {said}"):
            Dataset.parse(text)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("name",), "No Name", "name"),
        (("target",), "taste", "the target 'taste' must be one of the columns"),
        (("target",), "mode", "the target 'mode' must be one of the columns, of type number"),
        (("colour",), "red", r"line 1, colour: is not a known key; allowed are name, description, id, target"),
        (("columns",), [], "the target 'quality' must be"),
        (("columns", 0, "type"), "colour", r"line 7, column 'mode', type: must be one of number, integer, .*, not 'colour'"),
        (("columns", 0, "categories"), [], "'mode': is a category and declares no categories"),
        (("columns", 0, "name"), "_id", "'_id' is the key"),
        (("columns", 0, "name"), "heat", "'heat' is declared more than once"),
        (("columns", 1, "range"), [5, 5], "'heat': declares an empty or infinite range"),
        (("columns", 1, "range"), [0, float("inf")], "'heat': declares an empty or infinite range"),
        (("columns", 1, "range"), [float("nan"), 1], "'heat': declares an empty or infinite range"),
        (("columns", 1, "range"), None, "'heat' needs a range"),
        (("columns", 1, "range"), [0, 200], "the bins of 'heat' must cover its range"),
        (("columns", 1, "fill"), 101, "'heat': declares a fill of 101.0 outside of its range"),
        (("columns", 1, "fill"), None, "'heat' is optional and needs a fill"),
        (("pipeline",), [], "line 21, pipeline: the pipeline makes no features; add a step"),
        (("pipeline", 0, "column"), "taste", "names the unknown column 'taste'"),
        (("pipeline", 0, "column"), "heat", "does not fit 'heat'"),
        (("pipeline", 2, "column"), "mode", "does not fit 'mode'"),
        (("pipeline", 2, "column"), "quality", "must not use the target 'quality'"),
        (
            ("pipeline", 0, "step"),
            "guess",
            r"pipeline step 1 \(guess\), step: must be one of one_hot, .*, drop, not 'guess'\.",
        ),
        (("pipeline", 0, "step"), "onehot", r"not 'onehot' \(did you mean 'one_hot'\?\)\.$"),
        (
            ("columns", 1, "range"),
            [0, 5, 9, 8],
            r"needs 2 entries, not 4: write \[smallest, largest\], decimals with a point",
        ),
        (("pipeline", 1, "edges"), [0, 100, 50], "the bin edges of 'heat' must rise"),
        (("pipeline", 1, "labels"), ["low"], "'heat' needs 2 different bin labels"),
        (("pipeline", 1, "labels"), ["low", "low"], "'heat' needs 2 different bin labels"),
        (
            ("pipeline", 1),
            {"step": "scale", "column": "heat"},
            "the feature 'heat' is made twice; give one of the steps another 'prefix' or 'as'",
        ),
    ],
)
def test_a_bad_declaration_is_refused_with_its_place(place: tuple[str | int, ...], value: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        Dataset.parse(changed(*place, to=value))


def test_the_version_changes_with_what_decides_how_a_record_is_processed() -> None:
    same = Dataset.parse(yaml.safe_dump(SMALL)).version
    assert len(same) == 12
    assert set(same) <= set("0123456789abcdef")
    assert version("description", to="Other words") == same
    assert version("columns", 0, "description", to="Other words") == same
    assert version("columns", 1, "unit", to="°C") == same
    others = {
        version("columns", 1, "range", to=[0, 99]),
        version("columns", 1, "fill", to=21),
        version("columns", 0, "categories", to=["a", "c"]),
        version("columns", 0, "optional", to=True),
        version("pipeline", 1, "edges", to=[0, 51, 100]),
        version("pipeline", 1, "labels", to=["low", "top"]),
        version("pipeline", 2, "to", to=[0, 1]),
    }
    assert len(others | {same}) == 8


def test_the_version_of_the_lab_data_is_known(dataset: Dataset) -> None:
    # Models and processed records out there carry it: a change must be meant.
    assert dataset.version == "4fb01c13320f"


def test_markers_and_sentinels_are_declared_and_part_of_the_version_where_they_differ() -> None:
    plain = Dataset.parse(yaml.safe_dump(SMALL))
    assert plain.column("mode").is_missing(" k.A. ")
    assert not plain.column("heat").is_missing(-9999.0)
    changed_markers = Dataset.parse(changed("missing", to=["?"]))
    assert changed_markers.column("mode").is_missing("?")
    assert changed_markers.column("heat").is_missing(" ")
    assert not changed_markers.column("mode").is_missing("k.A.")
    sentinels = Dataset.parse(changed("columns", 1, "missing_values", to=[-9999, 999]))
    assert sentinels.column("heat").is_missing(-9999)
    assert sentinels.column("heat").is_missing(999.0)
    assert not sentinels.column("quality").is_missing(999.0)
    assert len({plain.version, changed_markers.version, sentinels.version}) == 3
    assert version("missing", to=["?", "x"]) == version("missing", to=["x", "?"])
    for each in (plain, changed_markers, sentinels):
        again = Dataset.restored(each.as_content())
        assert (again.version, again.column("mode").markers) == (each.version, each.column("mode").markers)
    assert "missing" not in plain.as_content()


@pytest.mark.parametrize("word", ["no", "On", "007", "12", "1e5", "2025-01-31"])
def test_a_name_is_a_text_whatever_yaml_calls_it(word: str) -> None:
    text = yaml.safe_dump(SMALL).replace("heat", word).replace(f"'{word}'", word)
    found = Dataset.parse(text)
    assert word in found.by_name
    assert [step.column for step in found.pipeline if step.step == "scale"] == [word]
    assert Dataset.parse(text.replace("quality", "off").replace("'off'", "off")).target == "off"
    # An empty one is no name.
    with pytest.raises(DeclarationError, match="none is not an allowed value"):
        Dataset.parse(text.replace(f"name: {word}", "name: null"))


def test_a_declared_category_is_no_missing_value() -> None:
    elements = Dataset.parse(changed("columns", 0, "categories", to=["NA", "none", "007"]))
    assert not elements.column("mode").is_missing("NA")
    assert elements.column("heat").is_missing("NA")


def test_words_of_yaml_are_markers_as_written() -> None:
    text = changed("missing", to=[]).replace("missing: []", "missing: [null, ~, NO, 007]")
    assert Dataset.parse(text).missing == ("null", "~", "NO", "007")


@pytest.mark.parametrize(
    ("place", "to", "message"),
    [
        (("columns", 0, "missing_values"), [1], "cannot have missing_values; only number and integer can"),
        (("columns", 1, "missing_values"), [float("nan")], "not finite"),
        (("columns", 1, "missing_values"), -9999, "must be a list"),
        (("columns", 1, "missing_values"), ["x"], "must be a number"),
        (("columns", 1, "missing_values"), [20], "as its fill and in missing_values"),
        (("missing",), "NA", "must be a list"),
    ],
)
def test_faults_of_missing_values_are_named(place: tuple[str | int, ...], to: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Dataset.parse(changed(*place, to=to))
