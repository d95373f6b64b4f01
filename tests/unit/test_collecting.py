"""The declared collection: what is read, what is refused with which words, and what is no part of a model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from collecting import COLLECT, PRESS, dataset
from complex_system.domain import json_schema as schema
from complex_system.domain.dataset import Dataset
from complex_system.domain.things import Trigger, covers, overlap
from complex_system.domain.yaml_reader import YamlFile
from complex_system.errors import DeclarationError


def test_a_declared_collection_is_read() -> None:
    collecting = dataset().collect
    assert collecting is not None
    assert collecting.subscribed == ("press-4.*", "lab.strength")
    assert collecting.record.trigger == Trigger("thing", thing="press-4.part_done")
    assert (collecting.record.key, collecting.record.wait) == ("value", 5.0)
    assert collecting.columns["temp_mean"].window == 10.0
    assert collecting.label is not None
    assert (collecting.label.thing, collecting.label.within) == ("lab.strength", 604_800.0)


def test_it_is_no_part_of_the_version_and_of_a_model() -> None:
    with_it, without = dataset(), dataset("")
    assert with_it.version == without.version
    assert with_it.as_content() == without.as_content()
    assert Dataset.restored(with_it.as_content()).collect is None


def test_it_fits_the_schema_for_editors() -> None:
    content = YamlFile(PRESS + COLLECT, "dataset.yaml").content  # not yaml.safe_load, to which the key "on" is true
    declared = json.loads(schema.shipped().read_text(encoding="utf-8"))
    assert list(jsonschema.Draft202012Validator(declared).iter_errors(content)) == []
    content["collect"]["columns"]["slope"]["take"] = "slop"
    assert list(jsonschema.Draft202012Validator(declared).iter_errors(content))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("collect:", "collect: 3\nother:", "line 18, collect: must have keys: things, columns, record, label"),
        ('things: "press-4.*"', "things: press", "collect, things: 'press' is not a thing; write machine.name"),
        ('things: "press-4.*"', "things: [press-4.*, press-4.torque]", "name the same things; keep the wider one"),
        ("machine: press-4, name: torque", "machine: press-5, name: torque", "does not include press-5.torque; add it"),
        ("machine: press-4, name: torque", 'machine: "*", name: torque', "machine: '*' names several; write one, or leave"),
        ("press-4.part_done", "press-5.part_done", "collect, record, on: 'things' does not include press-5.part_done"),
        ('on: thing "press-4.part_done"', "on: sometimes", 'every 10s (any duration), or thing "machine.name"'),
        ("on: thing", "no: thing", "collect, record, on: is required and missing"),
        ("take: slope", "take: slop", "median, min, max, std, slope, count, share, machine, not 'slop'"),
        ("over: 60s", "over: soon", "collect, columns, slope, over: must be seconds, or a number with one of s, min, h, d, w"),
        ("over: 60s, take: slope", "take: slope", "collect, columns, slope: needs over: the time that is looked at"),
        ("take: last, not_older: 30s", "take: last", "needs over or not_older: how old the value may be"),
        ("take: share, state: run", "take: share", "state: and take: share need each other"),
        ("take: mean, unit: degC", "take: mean, unit: K", "the unit is 'K' here and 'degC' in the column"),
        ("over: 10s, take: mean, unit: degC", "over: 10s, take: mean, lag: 1", "is for earlier records; it needs 'column'"),
        ("column: temp_mean, lag: 1", "column: temp_mean", "needs one of lag, records and over: which earlier records are taken"),
        ("column: temp_mean, lag: 1", "column: temp_mean, lag: 0", "ensure this value is greater than or equal to 1"),
        ("column: temp_mean, lag: 1", "column: strength, lag: 1", "'strength' is the label: earlier ones may not be known yet"),
        ("column: temp_mean, lag: 1", "column: temp_men, lag: 1", "is not a collected column (did you mean 'temp_mean'?)"),
        ("column: temp_mean, lag: 1", "column: mode, lag: 1", "takes values of column 'mode', which is a category, and is a number"),
        ("name: mode, over: 20s}", "take: machine}", "take: machine is the name of the record's machine; leave machine out"),
        ("{machine: press-4, name: torque, over: 60s, take: slope}", "{take: machine}", "take: machine makes a text"),
        ("column: temp_mean, lag: 1", "column: temp_hour, lag: 1", "is made of earlier records itself"),
        ("    slope: {", "    slop: {", "'slop' is not a column of the data set (did you mean 'slope'?)"),
        ("- {name: slope, type: number, optional: true}", "- {name: slope, type: number}", "must be optional: a sensor may be silent"),
        ("    slope:", "    mode_: {machine: press-4, name: x, over: 1s}\n    slope:", "'mode_' is not a column"),
        ("name: mode, over: 20s}", "name: mode, over: 20s, take: mean}", "take: mean makes a number, and the column is a category"),
        ("over: 10s, take: count", "over: 10s, take: mean", "makes fractions, and the column is an integer"),
        ("over: 10s, take: count", "over: 10s, take: last, unit: K", "takes the readings in 'K', and column 'temp_mean' in 'degC'"),
        ("match: id", "match: measurement_id", "needs records with that key: declare id: measurement_id"),
        ("id: value, ", "", "id needs a key that a label can name: declare id: value"),
        ("column: strength, from", "column: slope, from", "comes later and is collected, too"),
        ('from: thing "lab.strength"', "from: lab.strength", 'must be thing "machine.name" or subject "a.subject"'),
        ("{column: strength, from", "{column: torque, from", "'torque' is not the target; it is strength"),
        ("columns:\n  - ", "columns:\n  - {name: who, type: text}\n  - ", "column 'who' is not optional, and nothing collects it"),
        ('from: thing "lab.strength"', 'from: thing "*.strength"', "name some things in common; make one narrower"),
    ],
)  # fmt: skip
def test_a_collection_that_cannot_be_is_refused_with_what_is_allowed(old: str, new: str, problem: str) -> None:
    text = PRESS + COLLECT
    assert old in text
    with pytest.raises(DeclarationError) as caught:
        Dataset.parse(text.replace(old, new))
    assert problem in str(caught.value)


def test_the_examples_in_the_documentation_are_declarations() -> None:
    text = (Path(__file__).parents[2] / "docs" / "machines.md").read_text(encoding="utf-8")
    whole, of_a_hall = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[:2]
    collecting = Dataset.parse(whole).collect
    assert collecting is not None
    assert set(collecting.columns) == {"temp_mean", "pressure", "slope", "heating", "temp_before", "temp_hour"}
    press = "  - {name: press, type: category, categories: [press-4], optional: true}\n"
    hall = dataset(of_a_hall, PRESS.replace("temp_hour", "hall").replace("pipeline:", f"{press}pipeline:")).collect
    assert hall is not None
    assert hall.per_machine


@pytest.mark.parametrize(
    ("pattern", "other", "all_of_it", "some_of_it"),
    [
        ("press-4.*", "press-4.torque", True, True),
        ("press-4.*", "press-4.a.b", False, False),
        ("press-4.>", "press-4.a.b", True, True),
        ("*.torque", "press-4.*", False, True),
        (">", "a.b", True, True),
        ("a.*.c", "a.b.>", False, True),
        ("a.b", "a.>", False, True),
        ("a.b", "a.b.c", False, False),
        ("a.>", "a", False, False),
    ],
)
def test_patterns_are_those_of_nats(pattern: str, other: str, all_of_it: bool, some_of_it: bool) -> None:
    assert (covers(pattern, other), overlap(pattern, other)) == (all_of_it, some_of_it)
    assert overlap(other, pattern) == some_of_it
