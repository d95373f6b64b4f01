"""Asks a serving service with tritonclient, defaults untouched: ``triton.py http://HOST:PORT HOST:PORT KEY``, in ``.venv-clients``.

Prints as JSON what each way returned, and the errors as the client raises them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

MODEL = "lab-lightgbm"
TEXTS = {"material_id": ["11111111", "00000000", "33333333"], "laborant": ["TK", "", "AN"]}
NUMBERS = {"rohwert_1_labormessung": [3.2, np.nan, 29.0], "rohwert_2_labormessung": [1.0, 2.5, 3.0]}


def inputs(kind: ModuleType, repeat: int = 1, **options: Any) -> list[Any]:
    """The records as tensors of one of the two packages."""
    made = []
    for name, values in {**TEXTS, **NUMBERS}.items():
        array = np.array(values * repeat, dtype=object if name in TEXTS else np.float64).reshape(-1, 1)
        tensor = kind.InferInput(name, list(array.shape), "BYTES" if name in TEXTS else "FP64")
        tensor.set_data_from_numpy(array, **options)
        made.append(tensor)
    return made


def values(answer: Any, name: str = "prediction") -> list[Any]:
    """An output as the client decodes it; texts come as bytes."""
    return [each.decode() if isinstance(each, bytes) else float(each) for each in answer.as_numpy(name).ravel()]


def error(call: Any) -> list[str]:
    """Status and message of the error that a call raises."""
    try:
        call()
    except InferenceServerException as raised:
        return [str(raised.status()), str(raised.message())]
    return []


def about(client: Any, headers: dict[str, str], **options: Any) -> list[Any]:
    """What the client says of server and model."""
    metadata = client.get_model_metadata(MODEL, headers=headers, **options)
    return [
        client.is_server_live(), client.is_server_ready(), client.is_model_ready(MODEL, headers=headers),
        client.get_server_metadata(headers=headers, **options)["name"], metadata["platform"],
        [each["name"] for each in metadata["inputs"]],
    ]  # fmt: skip


def both(kind: ModuleType, client: Any, headers: dict[str, str]) -> dict[str, Any]:
    """What works in the same way over HTTP and over gRPC."""
    wanted = [kind.InferRequestedOutput(name) for name in ("prediction", "lower", "upper", "warnings")]
    asked: dict[str, Any] = {"interval": 0.9, "warnings": True}
    answer = client.infer(MODEL, inputs(kind), outputs=wanted, parameters=asked, headers=headers)
    wrong = kind.InferInput("material_id", [1], "BYTES")
    wrong.set_data_from_numpy(np.array(["9"], dtype=object))
    features = kind.InferInput("features", [2, 15], "FP32")
    features.set_data_from_numpy(np.full((2, 15), 0.5, np.float32))
    return {
        "default": values(client.infer(MODEL, inputs(kind), headers=headers)),
        "version": values(client.infer(MODEL, inputs(kind), model_version="1", headers=headers)),
        "many": values(client.infer(MODEL, inputs(kind, 1000), headers=headers)),
        "features": values(client.infer(MODEL, [features], headers=headers)),
        "outputs": {name: values(answer, name) for name in ("prediction", "lower", "upper", "warnings")},
        "bad value": error(lambda: client.infer(MODEL, [wrong], headers=headers)),
        "unknown model": error(lambda: client.infer("nobody", inputs(kind), headers=headers)),
        "no key": error(lambda: client.infer(MODEL, inputs(kind))),
        "too many": error(lambda: client.infer(MODEL, inputs(kind, 4000), headers=headers)),
    }


def over_http(address: str, headers: dict[str, str]) -> dict[str, Any]:
    """Binary by default, in JSON, mixed, and without waiting."""
    kind = tritonclient.http
    client = kind.InferenceServerClient(address)
    plain = [tensor for tensor in inputs(kind, binary_data=False) if tensor.name() in TEXTS]
    mixed = [*plain, *(tensor for tensor in inputs(kind) if tensor.name() in NUMBERS)]
    in_json = [kind.InferRequestedOutput("prediction", binary_data=False)]
    fresh = dict(headers)
    return {
        "about": about(client, headers),
        **both(kind, client, headers),
        "mixed": values(client.infer(MODEL, mixed, outputs=in_json, headers=headers)),
        "json": values(client.infer(MODEL, [*plain, _numbers_in_json(kind)], outputs=in_json, headers=fresh)),
        "without waiting": values(client.async_infer(MODEL, inputs(kind), headers=headers).get_result()),
    }


def _numbers_in_json(kind: ModuleType) -> Any:
    """A column without NaN, for which JSON has no number."""
    tensor = kind.InferInput("rohwert_2_labormessung", [3, 1], "FP64")
    tensor.set_data_from_numpy(np.array([[1.0], [2.5], [3.0]]), binary_data=False)
    return tensor


def over_grpc(address: str, headers: dict[str, str]) -> dict[str, Any]:
    """As it comes."""
    kind = tritonclient.grpc
    client = kind.InferenceServerClient(address)
    return {"about": about(client, headers, as_json=True), **both(kind, client, headers)}


async def asynchronous(http: str, grpc: str, key: str) -> dict[str, Any]:
    """Both asyncio clients, 20 requests at the same time."""
    found: dict[str, Any] = {}
    for kind, plain, address in (
        (tritonclient.http.aio, tritonclient.http, http),
        (tritonclient.grpc.aio, tritonclient.grpc, grpc),
    ):
        async with kind.InferenceServerClient(address) as client:
            calls = [client.infer(MODEL, inputs(plain), headers={"x-api-key": key}) for _ in range(20)]
            found[plain.__name__] = [values(answer) for answer in await asyncio.gather(*calls)]
    return found


def main() -> None:
    """Ask in all ways."""
    http, grpc, key = sys.argv[1].removeprefix("http://"), sys.argv[2], sys.argv[3]
    # A mapping each: the HTTP clients write the length of binary requests into it.
    found = {"http": over_http(http, {"x-api-key": key}), "grpc": over_grpc(grpc, {"x-api-key": key})}
    print(json.dumps({**found, "async": asyncio.run(asynchronous(http, grpc, key))}))


if __name__ == "__main__":
    main()
