"""The JSON schemas of what the service says about itself and its models."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}


def status_components() -> dict[str, Schema]:
    """The named schemas that the answers of the ``GET`` calls refer to."""
    return {
        "Live": _thing(status={"const": "live"}),
        "Ready": _thing(status={"const": "ready"}, model=_thing(name=_TEXT, version=_TEXT, framework=_TEXT)),
        "ModelInfo": {
            **_thing(
                name=_TEXT, version=_TEXT, framework=_TEXT, trainer=_TEXT, pipeline_version=_TEXT, target=_TEXT, run_id=_TEXT,
                trained_at=_TEXT, loaded_at=_TEXT, platform=_TEXT,
                validation={"type": "object", "description": "The trainer's metrics.", "additionalProperties": {"type": "number"}},
            ),
            "description": "A model that is loaded.",
        },
        "ModelProblem": {
            **_thing(name=_TEXT, version=_TEXT, code=_TEXT, reason=_TEXT),
            "description": "A version that is not served, and why.",
        },
        "ModelStatus": _thing(
            model=_or_null("ModelInfo"),
            pipeline_version=_TEXT,
            source={**_TEXT, "description": "Where the models come from."},
            problem=_or_null("ModelProblem"),
            source_problem={**_TEXT_OR_NULL, "description": "Why the source could not be asked, the last time."},
        ),
        "ModelsStatus": _thing(
            champion=_ref("ModelStatus"),
            models=_many(
                _thing(
                    name=_TEXT,
                    newest=_TEXT,
                    framework=_TEXT,
                    aliases={"type": "object", "description": "Alias to version.", "additionalProperties": _TEXT},
                    loaded={**_many(_TEXT), "description": "Versions that are loaded."},
                )
            ),
            loaded=_many(
                _thing(name=_TEXT, version=_TEXT_OR_NULL, model=_or_null("ModelInfo"), problem=_or_null("ModelProblem"))
            ),
            kept={"type": "integer", "description": "How many models beside the champion stay loaded."},
            source_problem=_TEXT_OR_NULL,
        ),
        "ServerMetadata": _thing(name=_TEXT, version=_TEXT, extensions=_many(_TEXT)),
        "ServerLive": _thing(live={"type": "boolean"}),
    }  # fmt: skip


def _thing(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _many(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(name: str) -> Schema:
    return {"anyOf": [_ref(name), {"type": "null"}]}
