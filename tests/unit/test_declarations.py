"""What ships beside the code: the JSON Schema, the lab data, the films."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LinearRegression

from complex_system.domain import json_schema as schema
from complex_system.domain.dataset import Dataset
from complex_system.errors import DeclarationError
from complex_system.local.own_data import films
from complex_system.pipeline.pipeline import Pipeline
from everything import TEXT


def errors(text: str) -> list[Any]:
    declared = json.loads(schema.shipped().read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(declared)
    return list(jsonschema.Draft202012Validator(declared).iter_errors(yaml.safe_load(text)))


def shipped(name: str) -> str:
    return (resources.files("complex_system.domain") / name).read_text(encoding="utf-8")


def test_the_shipped_schema_is_the_codes() -> None:
    # After a change of the classes: python -m complex_system.domain.json_schema
    assert schema.shipped().read_text(encoding="utf-8") == schema.as_text()


@pytest.mark.parametrize("text", [shipped("lab.yaml"), shipped("films.yaml"), TEXT])
def test_good_declarations_fit_the_schema(text: str) -> None:
    assert errors(text) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("step: ratio", "step: ration"),
        ("mean: 33.3, ", ""),
        ("type: boolean", "type: bool"),
        ("range: [-40, 250]", "range: [-40]"),
        ("prefix: has", "perfix: has"),
        ("name: everything", "name: Every Thing"),
        ("target: quality", "target: []"),
    ],
)
def test_the_schema_refuses_what_the_code_refuses(old: str, new: str) -> None:
    bad = TEXT.replace(old, new)
    assert errors(bad)
    with pytest.raises(DeclarationError):
        Dataset.parse(bad)


def test_the_schema_lies_beside_a_declaration_where_editors_look(tmp_path: Path) -> None:
    assert schema.put_beside(tmp_path / "dataset.yaml") == tmp_path / "dataset.schema.json"
    assert shipped("lab.yaml").splitlines()[0] == schema.EDITOR_LINE == "# yaml-language-server: $schema=dataset.schema.json"


def test_the_films_have_two_targets_and_none_is_chosen_silently() -> None:
    with pytest.raises(DeclarationError, match="there are 2 targets"):
        Dataset.shipped("films")
    with pytest.raises(DeclarationError, match="no data set 'flims' in the package; there are lab, films"):
        Dataset.shipped("flims")


@pytest.mark.parametrize("target", ["Ausformung", "Kaltverfo"])
def test_all_films_are_processed_for_either_target(target: str) -> None:
    dataset = Dataset.shipped("films", target=target)
    records = films(dataset)
    processed = Pipeline(dataset).process(records)
    assert len({record["_id"] for record in records}) == processed.height == 51
    assert len(dataset.feature_names) == 13
    assert sorted(set(processed["Anteil_K000055"])) == [0.5, 1.0]
    assert sorted(set(processed["Anteil_K000057"])) == [0.0, 0.5]
    assert not {"Ausformung", "Kaltverfo"} & set(dataset.feature_names)
    features, truth = processed.select(dataset.feature_names).to_numpy(), processed[target].to_numpy()
    assert features.min() >= 0
    assert features.max() <= 1
    assert LinearRegression().fit(features, truth).score(features, truth) > 0.3
    assert np.array_equal(Pipeline(dataset).features(records), features.astype(np.float32))
