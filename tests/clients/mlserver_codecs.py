"""Asks a serving service with MLServer's codecs and messages, in ``.venv-clients``: ``mlserver_codecs.py URL HOST:PORT KEY``.

Prints as JSON what each way returned.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import grpc
import numpy as np
import pandas as pd
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse, Parameters

MODEL = "lab-lightgbm"
FRAME = pd.DataFrame(
    {
        "material_id": ["11111111", "00000000", "33333333"],
        "rohwert_1_labormessung": [3.2, np.nan, 29.0],
        "rohwert_2_labormessung": [1.0, 2.5, 3.0],
    }
)


def tensors(**parameters: Any) -> InferenceRequest:
    """The records, each column by its own codec."""
    made = [StringCodec.encode_input("material_id", list(FRAME["material_id"]))]
    made += [NumpyCodec.encode_input(name, FRAME[name].to_numpy()) for name in list(FRAME)[1:]]
    return InferenceRequest(inputs=made, parameters=Parameters(**parameters) if parameters else None)


def over_rest(url: str, key: str, request: InferenceRequest) -> InferenceResponse:
    """Post a request as JSON."""
    body = request.model_dump_json(exclude_none=True).encode()
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    asked = urllib.request.Request(f"{url}/v2/models/{MODEL}/infer", body, headers)
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return InferenceResponse.model_validate_json(answer.read())


def outputs(answer: InferenceResponse) -> dict[str, list[float]]:
    """The outputs as MLServer decodes them."""
    return {output.name: NumpyCodec.decode_output(output).ravel().tolist() for output in answer.outputs}


def main() -> None:
    """Ask in all ways."""
    url, address, key = sys.argv[1:]
    frame = PandasCodec.encode_request(FRAME)
    found = {"frame": outputs(over_rest(url, key, frame))}
    found["codecs"] = outputs(over_rest(url, key, tensors()))
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for name, use_raw in (("typed", False), ("raw", True)):
            asked = tensors(interval="0.9")
            asked.inputs.pop(1)  # the codec makes None of NaN, which the messages cannot hold
            request = ModelInferRequestConverter.from_types(asked, MODEL, use_raw=use_raw)
            answer = stub.ModelInfer(request, metadata=(("x-api-key", key),), timeout=20)
            found[name] = outputs(ModelInferResponseConverter.to_types(answer))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
