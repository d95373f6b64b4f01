"""The Open Inference Protocol, version 2, over REST (kserve/open-inference-protocol).

Inputs are the raw columns as named tensors, or one tensor ``features`` of processed features; the output is ``prediction``. The
binary tensor extension is not offered, and refused in words.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from typing_extensions import override

from complex_system import __version__
from complex_system.errors import (
    ComplexSystemError,
    InvalidRequestError,
    ModelRefusedError,
    NobodyListensError,
    NoModelError,
)
from complex_system.serving.models.manager import CHAMPION
from complex_system.serving.requests.batch import Batch
from complex_system.serving.requests.reader import BatchReader
from complex_system.serving.rest.calls import (
    REQUEST_ID,
    Call,
    OpenRoute,
    ServingRoute,
    challenge,
    json_response,
    sentences,
    status_of,
)
from complex_system.serving.rest.oip_description import OUTPUT, model_metadata
from complex_system.serving.rest.oip_tensors import InferenceReader, InferenceRequest, no_binary, wants_binary
from complex_system.serving.rest.schemas import answers

SERVER = "complex-system"


class OipRoute(ServingRoute):
    """Errors as ``{"error": text}``."""

    error_schema = "InferenceError"

    @override
    def refusal(self, error: ComplexSystemError, call: Call) -> Response:
        status = 400 if error.code == "invalid_record" else status_of(error)
        return json_response({"error": sentences(error)}, status, {REQUEST_ID: call.id, **challenge(status)})


class OipOpenRoute(OipRoute, OpenRoute):
    """The probes of the protocol."""


def oip_router() -> APIRouter:
    """The routes below ``/v2``."""
    protocol = _Protocol()
    router = APIRouter(route_class=OipRoute, tags=["Open Inference Protocol V2"])
    refused = answers({400: "InferenceError", 404: "InferenceError", 413: "InferenceError", 503: "InferenceError"})
    infer = {"responses": answers({200: "InferenceResponse"}) | refused}
    metadata = {"responses": answers({200: "ModelMetadata", 404: "InferenceError", 503: "InferenceError"})}
    refusals = answers({404: "InferenceError", 503: "ModelReady"})
    is_ready = {"responses": answers({200: "ModelReady"}) | refusals}
    versioned = "/v2/models/{name}/versions/{version}"
    router.add_api_route(
        "/v2/models/{name}/infer", protocol.infer_newest, methods=["POST"], openapi_extra=infer, summary="Infer"
    )
    router.add_api_route(
        f"{versioned}/infer", protocol.infer, methods=["POST"], openapi_extra=infer, summary="Infer with a version or alias"
    )
    for path, suffix in (("/v2/models/{name}", "newest"), (versioned, "version")):
        one = suffix == "newest"
        router.add_api_route(
            f"{path}/ready",
            protocol.model_ready_newest if one else protocol.model_ready,
            openapi_extra=is_ready,
            summary="Whether a model can infer",
        )
        router.add_api_route(
            path,
            protocol.metadata_newest if one else protocol.metadata,
            openapi_extra=metadata,
            summary="What a model takes and gives",
        )
    probes: dict[str, Any] = {"route_class_override": OipOpenRoute}
    live = {"responses": answers({200: "ServerLive"})}
    router.add_api_route("/v2/health/live", protocol.live, summary="The server is up", openapi_extra=live, **probes)
    unready = {"responses": answers({200: "ServerReady", 503: "ServerReady"})}
    router.add_api_route("/v2/health/ready", protocol.ready, summary="The server can infer", openapi_extra=unready, **probes)
    server = {"responses": answers({200: "ServerMetadata"})}
    router.add_api_route("/v2", protocol.server, summary="What the server is", openapi_extra=server)
    return router


class _Protocol:
    def __init__(self) -> None:
        self._reader = InferenceReader()

    async def server(self, call: Call) -> Response:
        return json_response({"name": SERVER, "version": __version__, "extensions": []})

    async def live(self, call: Call) -> Response:
        return json_response({"live": True})

    async def ready(self, call: Call) -> Response:
        # The specification's text says "live" here and its OpenAPI document "ready".
        ready = call.gate.ready
        return json_response({"live": True, "ready": ready}, 200 if ready else 503)

    async def model_ready_newest(self, call: Call, name: str) -> Response:
        return await self.model_ready(call, name)

    async def model_ready(self, call: Call, name: str, version: str | None = None) -> Response:
        try:
            info = (await call.find(name, version)).info
            call.gate.require_broker()
        except (NoModelError, ModelRefusedError, NobodyListensError) as error:
            return json_response({"name": name, "ready": False, "error": error.message}, 503)
        return json_response({"name": info.name if name != CHAMPION else name, "ready": True})

    async def metadata_newest(self, call: Call, name: str) -> Response:
        return await self.metadata(call, name)

    async def metadata(self, call: Call, name: str, version: str | None = None) -> Response:
        predictor = await call.find(name, version)
        versions = [predictor.info.version] if version else await call.versions(name)
        return json_response(model_metadata(predictor, name, versions))

    async def infer_newest(self, call: Call, name: str) -> Response:
        return await self.infer(call, name)

    async def infer(self, call: Call, name: str, version: str | None = None) -> Response:
        if b"inference-header-content-length" in call.fields:
            raise no_binary()
        # An unknown model is said before its input is judged.
        await call.find(name, version)
        asked: list[InferenceRequest] = []

        def read(body: bytes, reader: BatchReader) -> Batch:
            asked.append(self._reader.decode(body))
            return self._reader.batch(asked[0], reader)

        batch = await call.read(read)
        request = asked[0]
        _check_outputs(request)
        result = await call.predict(batch)
        output = {"name": OUTPUT, "shape": [batch.size, 1], "datatype": "FP32", "data": result.predictions}
        answer = {
            "model_name": name,
            "model_version": result.model.version,
            "id": call.id if request.id is None else request.id,
            "parameters": {"pipeline_version": result.model.pipeline_version, "registered_name": result.model.name},
            "outputs": [output],
        }
        return json_response(answer, headers={REQUEST_ID: call.id})


def _check_outputs(request: InferenceRequest) -> None:
    for output in request.outputs or ():
        if output.name != OUTPUT:
            raise InvalidRequestError(f"The model has the output '{OUTPUT}' and no output '{output.name[:60]}'.")
        if wants_binary(output.parameters):
            raise no_binary()
