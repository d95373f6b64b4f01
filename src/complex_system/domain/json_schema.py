"""The JSON Schema (draft 2020-12) of a declaration, for editors, made from the classes that read it.

It ships as ``dataset.schema.json`` in this folder; a test compares it with the code, and
``python -m complex_system.domain.json_schema`` writes it.
"""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from complex_system.domain.dataset import Dataset

FILE = "dataset.schema.json"
EDITOR_LINE = f"# yaml-language-server: $schema={FILE}"
"""The first line of a declaration with its schema in the same folder: editors complete keys and mark faults."""

_WRITTEN = {"type": ["string", "number", "boolean"]}  # plain texts that YAML would read otherwise


def declaration_schema() -> dict[str, Any]:
    """Return the schema of a ``dataset.yaml``."""
    made: dict[str, Any] = _modern(Dataset.schema(by_alias=True))
    del made["properties"]["other_targets"]
    made["title"], made["description"] = "Data set", "What the records are and how features are made of them"
    made["properties"]["target"] = {
        "description": made["properties"]["target"]["description"],
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
    }
    made["$defs"]["Column"]["properties"]["categories"]["items"] = _WRITTEN
    made["$defs"]["Column"]["properties"]["spellings"]["additionalProperties"]["items"] = _WRITTEN
    made["properties"]["missing"]["items"] = {"type": ["string", "number", "boolean", "null"]}
    made["$defs"]["Column"]["properties"]["fill"]["anyOf"].append({"type": "boolean"})
    made["$defs"]["Bins"]["properties"]["labels"]["items"] = _WRITTEN
    made["$defs"]["Impute"]["properties"]["value"]["type"] = ["number", "boolean"]
    things = made["$defs"]["Collecting"]["properties"]["things"]
    made["$defs"]["Collecting"]["properties"]["things"] = {
        "description": things.pop("description"),
        "anyOf": [{"type": "string"}, things],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def as_text() -> str:
    """Return the schema as text, as in the shipped file."""
    return json.dumps(declaration_schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def shipped() -> Path:
    """Return the path of the shipped file."""
    return Path(str(resources.files("complex_system.domain") / FILE))


def put_beside(declaration: Path) -> Path:
    """Copy the schema into the folder of a declaration, where ``EDITOR_LINE`` points to."""
    return Path(shutil.copyfile(shipped(), declaration.parent / FILE))


def _modern(part: Any) -> Any:
    """Return a part of draft 7, as pydantic writes it, in draft 2020-12."""
    if isinstance(part, list):
        return [_modern(each) for each in part]
    if not isinstance(part, dict):
        return part.replace("#/definitions/", "#/$defs/") if isinstance(part, str) else part
    made = {key: _modern(value) for key, value in part.items() if key != "discriminator"}
    if "definitions" in made:
        made["$defs"] = made.pop("definitions")
    if isinstance(made.get("items"), list):
        made["prefixItems"] = made.pop("items")
    if isinstance(made.get("title"), str):
        del made["title"]  # repeats the key
    return made


if __name__ == "__main__":
    shipped().write_text(as_text(), encoding="utf-8")
