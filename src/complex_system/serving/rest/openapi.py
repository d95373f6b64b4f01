"""The documentation at ``/docs``: the OpenAPI document of the routes, and Swagger UI from local files.

A plant has no Internet, so the page and all that it loads come from this server.
"""

from __future__ import annotations

import html
import json
import re
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from complex_system import __version__
from complex_system.domain.dataset import Dataset
from complex_system.errors import UnauthorizedError
from complex_system.http.login import login_address
from complex_system.http.responses import PAGE_HEADERS, error_response, json_response
from complex_system.protocol.trial import SuggestRequest
from complex_system.serving.models.manager import CHAMPION
from complex_system.serving.requests.examples import example_record
from complex_system.serving.requests.tensors import InferenceRequest
from complex_system.serving.rest.endpoint import Backend, Endpoint
from complex_system.serving.rest.schemas import Schema, reference, request_schemas, usual

ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
"""All files that the page loads."""
SUBJECTS = "/subjects"
"""The route that says on which subjects the same models answer over NATS."""
_PARAMETERS = {
    "name": "Registered name of the model, or `champion`; `GET /models` lists them.",
    "version": "A version of that model, or an alias of it.",
}
_MEANINGS = {
    200: "The answer",
    400: "The request is not what is taken",
    401: "The API key is missing or wrong, where one is set",
    404: "No such model",
    409: "The model does not carry what is needed: it was trained before that existed",
    413: "Too many bytes or records; the message says how to split",
    415: "The body is called something else than JSON",
    422: "A record is not as the data set declares it",
    503: "No model yet, or it cannot be served",
}


def documentation_routes(
    backend: Backend, routes: Sequence[Route], dataset: Dataset, subjects: Callable[[], Mapping[str, str]] | None
) -> list[Route]:
    """Return ``/docs``, its files, and ``/openapi.json``.

    Args:
        backend: What all routes share.
        routes: What is documented.
        dataset: Declares what requests look like.
        subjects: Returns the broker's subjects by their names in ``nats.md``; None without a broker.
    """
    documents = _Documents(backend, routes, dataset, subjects)
    # The package brings the files of Swagger UI 5; its code is not used.
    folder = Path(str(resources.files("fastapi_offline"))) / "static"

    def known(show: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def shown(request: Request) -> Response:
            try:
                backend.api_key.require(request.headers)
            except UnauthorizedError as error:
                if "text/html" in request.headers.get("accept", ""):
                    return RedirectResponse(login_address(request.url.path), 303)
                return error_response(error)
            return await show(request)

        return shown

    async def openapi(request: Request) -> Response:
        return json_response(documents.current(str(request.base_url).rstrip("/")))

    async def page(_: Request) -> Response:
        return HTMLResponse(_text("docs.html", title=html.escape(documents.title)), headers=PAGE_HEADERS)

    async def asset(request: Request) -> Response:
        return FileResponse(folder / request.url.path.rpartition("/")[2], headers={"cache-control": "max-age=3600"})

    assets = [Route(f"/docs/{name}", asset) for name in ASSETS]
    return [Route("/openapi.json", known(openapi)), Route("/docs", known(page)), *assets]


class _Documents:
    """Makes the OpenAPI document, for the declaration that the champion was trained for."""

    def __init__(
        self, backend: Backend, routes: Sequence[Route], dataset: Dataset, subjects: Callable[[], Mapping[str, str]] | None
    ) -> None:
        self.title = f"Predictions of '{dataset.target}'"
        self._backend = backend
        self._routes = routes
        self._dataset = dataset
        self._subjects = subjects
        self._made: tuple[str, Schema] = ("", {})

    def current(self, address: str) -> Schema:
        """Return the document; its examples name a model that is there now, and this server's address."""
        champion = self._backend.engine.champion.current
        # Requests look as the champion takes them, which may still be of an older declaration.
        dataset = champion.pipeline.dataset if champion else self._dataset
        if self._made[0] != dataset.version:
            self._made = dataset.version, self._make(dataset)
        document = self._made[1]
        info = champion.info if champion else None
        name, version = (info.name, info.version) if info else (f"{self._dataset.name}-lightgbm", "1")
        document["paths"]["/predict"]["post"]["description"] = predict_section(dataset, address, bool(self._backend.api_key))
        for path, operations in document["paths"].items():
            examples = {"name": name if "{version}" in path else CHAMPION, "version": version}
            for operation in operations.values():
                for parameter in operation.get("parameters", ()):
                    parameter["example"] = examples[parameter["name"]]
        return document

    def _make(self, dataset: Dataset) -> Schema:
        description = dataset.description
        if dataset.version != self._dataset.version:
            description += _OLDER.format(own=dataset.version, present=self._dataset.version)
        names = Counter(route.name for route in self._routes)
        paths: dict[str, Schema] = {}
        types: dict[str, type[msgspec.Struct]] = {each.__name__: each for each in (InferenceRequest, SuggestRequest)}
        for route in self._routes:
            endpoint = route.endpoint
            if not isinstance(endpoint, Endpoint) or not endpoint.summary:
                continue
            bodies = dict(endpoint.responses)
            if endpoint.needs_key:
                bodies[401] = endpoint.errors.schema
            types |= {body.__name__: body for body in bodies.values() if not isinstance(body, dict)}
            paths.setdefault(route.path, {})[endpoint.method.lower()] = _operation(
                route, endpoint, bodies, dataset, is_named=names[route.name] == 1
            )
        if self._subjects is not None:
            paths[SUBJECTS]["get"]["description"] = broker_section(dataset, self._subjects())
        _, schemas = msgspec.json.schema_components(types.values(), ref_template=reference("{name}")["$ref"])
        unit = dataset.column(dataset.target).unit
        schemas["Predictions"]["properties"]["predictions"]["description"] = (
            f"One value of '{dataset.target}' a record, in the order of the records{f', in {unit}' if unit else ''}."
        )
        components: Schema = {"schemas": request_schemas(dataset) | usual(schemas)}
        if self._backend.api_key:
            components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        about = {"title": self.title, "description": description, "version": __version__}
        tags = [{"name": name, "description": said} for name, said in _TAGS.items()]
        return {"openapi": "3.1.0", "info": about, "tags": tags, "paths": paths, "components": components}


def _operation(route: Route, endpoint: Endpoint, bodies: dict[int, Any], dataset: Dataset, *, is_named: bool) -> Schema:
    """Return OpenAPI's description of a route; generated clients have a function of the route's name where that is the only one."""
    described: Schema = {
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "operationId": route.name if is_named else re.sub(r"\W+", "_", f"{route.name}{route.path}"),
    }
    if route.param_convertors:
        described["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "title": name.capitalize()},
                "description": _PARAMETERS[name],
            }
            for name in route.param_convertors
        ]
    if endpoint.needs_key:
        described["security"] = [{"key": []}]
    if endpoint.body is not None:
        described["requestBody"] = endpoint.body(dataset)
    described["responses"] = {
        str(status): body if isinstance(body, dict) else _json_of(status, body) for status, body in bodies.items()
    }
    return described


def _json_of(status: int, body: type[msgspec.Struct]) -> Schema:
    content = {"application/json": {"schema": reference(body.__name__)}}
    return {"description": _MEANINGS[status], "content": content}


def predict_section(dataset: Dataset, address: str, needs_key: bool) -> str:
    """Return what the description of ``/predict`` says: a command and a program that run when they are pasted."""
    record = example_record(dataset)
    return _text(
        "predict.md",
        address=address,
        body=shlex.quote(json.dumps({"records": [record]}, ensure_ascii=False)),
        record=repr(record),
        key_option=" -H 'X-API-Key: ...'" if needs_key else "",
        key_header=', "X-API-Key": "..."' if needs_key else "",
    )


def broker_section(dataset: Dataset, subjects: Mapping[str, str]) -> str:
    """Return what the description says of requests over NATS, with programs that run when they are pasted."""
    records = [example_record(dataset, position) for position in (0, 1)]
    return _text("nats.md", **subjects, records=",\n    ".join(repr(record) for record in records))


def _text(name: str, **values: str) -> str:
    return Template(resources.files(__package__).joinpath(name).read_text("utf-8")).substitute(values)


_TAGS = {
    "predict": "Predictions of raw records, and what they are made of",
    "suggest": "Settings that reach a value",
    "model": "What is served",
    "Open Inference Protocol V2": "For clients of KServe, Triton and MLServer",
    "MLflow scoring": "For clients of MLflow",
    "health": "Probes, without a key",
    "NATS": "The same over the broker",
}
"""The groups of routes in their order."""
_OLDER = """

**The declaration of the data set has changed.** The model that answers is of pipeline version `{own}`, the present one is
`{present}`: requests are judged, and this page describes them, as that older version declares. Columns that only the new declaration
has may be sent and are not used. This ends with the first champion of the new version.
"""
