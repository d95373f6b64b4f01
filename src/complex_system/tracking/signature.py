"""Signatures of ONNX models: with a key of the deployment, only what its trainers made is compared and served.

Whoever may write to MLflow or to the store of Weights & Biases can register a model and replace its files. A trainer signs the
metadata beside the ONNX model, which hold the model's digest, its registered name and its declaration; without the key nobody can
make such a signature. It does not say which of the deployment's own models is the right one: an older one may be crowned again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from complex_system.errors import ModelRefusedError

SIGNATURE = "signature"
"""Entry of the metadata with the signature of all others."""


def signed(metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a model's metadata with the signature; unchanged without a key."""
    return {**metadata, SIGNATURE: _signature(metadata, key)} if key else dict(metadata)


def require_signature(label: str, model: str, metadata: Mapping[str, Any], key: str) -> None:
    """Let a model pass whose metadata are signed with the key, or any without a key.

    Args:
        label: Name and version of the model in messages.
        model: Its registered name.
        metadata: What is kept beside it.
        key: The deployment's.

    Raises:
        ModelRefusedError: They are not signed, or are those of another model.
    """
    if not key:
        return
    found = metadata.get(SIGNATURE)
    if not isinstance(found, str) or not hmac.compare_digest(found.encode(), _signature(metadata, key).encode()):
        raise ModelRefusedError(
            f"{label} is not signed by a trainer of this deployment (COMPLEX_SYSTEM_MODEL_KEY); models from before the key was set "
            "are replaced by the next training."
        )
    if metadata.get("model") != model:
        raise ModelRefusedError(f"{label} is signed as the model {str(metadata.get('model'))[:60]!r}, which it is not.")


def _signature(metadata: Mapping[str, Any], key: str) -> str:
    content = {name: value for name, value in metadata.items() if name != SIGNATURE}
    # As it is read from JSON again: numbers keep their digits, and the order of the entries does not matter.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
