"""The server's own description: an OpenAPI 3.1 document at /openapi.json.

https://spec.openapis.org/oas/v3.1.0 and https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from typing import Any

import tightship

__all__ = ["document"]

Json = dict[str, Any]

DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
             "BF16", "BYTES"]  # fmt: skip
WHY = {
    400: "The request is not what the protocol or the model takes",
    401: "An API key is needed, or this one is not known",
    403: "The API key may not do this; or a page of another site sent it",
    404: "There is no such model, version or address",
    408: "The body did not arrive in time",
    409: "Not in the state that the model is in",
    413: "The body is longer than allowed",
    421: "It names a host that this server is not known as",
    429: "Too many requests; the header Retry-After says when to try again",
    500: "The engine failed",
    503: "The model is being loaded, or the server is going down",
    504: "No answer within the deadline",
}


def document() -> Json:
    """Return the whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tightship",
            "version": tightship.__version__,
            "description": "The Open Inference Protocol v2 with its binary tensor extension, Triton's repository "
            "calls, and rollouts of new versions.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_health(), **_models(), **_inference(), **_repository(), **_rollouts(), **_others()},
        "components": {
            "schemas": {**_schemas(), **_rollout_schemas()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: tightship access add"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _health() -> Json:
    lives = _object({"live": {"type": "boolean"}}, "live")
    ready = _object({"ready": {"type": "boolean"}}, "ready")
    named = _object({"name": {"type": "string"}, "ready": {"type": "boolean"}}, "name", "ready")
    both = {200: _json("It is", named), 503: _json("It is not yet, or no more", named)}
    return {
        "/v2/health/live": {"get": _operation("Whether the server lives", {200: _json("It does", lives)})},
        "/v2/health/ready": {
            "get": _operation(
                "Whether every model answers", {200: _json("All do", ready), 503: _json("Not all do", ready)}
            )
        },
        "/v2/models/{model}/ready": {"parameters": _path("model"), "get": _operation("Whether it answers", both, 404)},
        "/v2/models/{model}/versions/{version}/ready": {
            "parameters": _path("model", "version"),
            "get": _operation("Whether this version answers", both, 404),
        },
    }


def _models() -> Json:
    names = _object({"models": {"type": "array", "items": {"type": "string"}}}, "models")
    metadata = {200: _json("What it takes and gives", _ref("Model"))}
    return {
        "/v2": {
            "get": _keyed(_operation("About the server", {200: _json("Name, version, extensions", _ref("Server"))}))
        },
        "/v2/models": {"get": _keyed(_operation("The names of all models", {200: _json("The names", names)}))},
        "/v2/models/{model}": {
            "parameters": _path("model"),
            "get": _keyed(_operation("Inputs and outputs", metadata, 404, 503)),
        },
        "/v2/models/{model}/versions/{version}": {
            "parameters": _path("model", "version"),
            "get": _keyed(_operation("Inputs and outputs of this version", metadata, 404, 503)),
        },
    }


def _inference() -> Json:
    infer = _keyed(
        _operation(
            "Run the model",
            {
                200: {
                    "description": "The outputs",
                    "content": {
                        "application/json": {"schema": _ref("InferResponse")},
                        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    },
                }
            },
            *(400, 404, 408, 413, 429, 500, 503, 504),
        )
    )
    infer["description"] = (
        "Tensors as JSON, or the JSON with the tensors' bytes after it and the header Inference-Header-Content-Length. "
        "A model that declares processing also takes a picture, a text or a sound as the whole body. The header "
        "X-Sticky-Key keeps a caller on one version during a rollout."
    )
    infer["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _ref("InferRequest")}},
    }
    return {
        "/v2/models/{model}/infer": {"parameters": _path("model"), "post": infer},
        "/v2/models/{model}/versions/{version}/infer": {"parameters": _path("model", "version"), "post": infer},
    }


def _repository() -> Json:
    index = _keyed(
        _operation(
            "Every version that is known",
            {200: _json("The versions", {"type": "array", "items": _ref("IndexRow")})},
            *(400, 408, 413),
        )
    )
    index["requestBody"] = _json_body(_object({"ready": {"type": "boolean"}}), required=False)
    load = _keyed(
        _operation(
            "Load a model, or a new version of one",
            {200: _json("What answers", _ref("Loaded"))},
            *(400, 404, 408, 409, 413, 503),
        ),
        admin=True,
    )
    load["requestBody"] = {
        "required": False,
        "content": {
            "application/json": {
                "schema": _object({"parameters": _object({"path": {"type": "string"}})}),
            },
        },
    }
    load["description"] = (
        "Needs an administrator's key. Without a body: what is known by this name; `parameters.path`: a package or "
        "model file on the server's machine; a body of application/octet-stream: the package itself."
    )
    unload = _keyed(
        _operation(
            "Serve a model no more",
            {200: _json("Which", _object({"name": {"type": "string"}}))},
            *(404, 408, 409, 413, 503),
        ),
        admin=True,
    )
    return {
        "/v2/repository/index": {"post": index},
        "/v2/repository/models/{model}/load": {"parameters": _path("model"), "post": load},
        "/v2/repository/models/{model}/unload": {"parameters": _path("model"), "post": unload},
    }


def _rollouts() -> Json:
    status = _json("How it stands", _ref("Status"))
    listed = _object({"rollouts": {"type": "array", "items": _ref("Status")}}, "rollouts")
    journal = _object({"journal": {"type": "array", "items": _ref("JournalEntry")}}, "journal")
    changed = (400, 404, 408, 409, 413, 503)
    start = _keyed(_operation("Start a rollout", {201: status}, *changed), admin=True)
    start["requestBody"] = _json_body(_ref("Order"))
    end = _keyed(_operation("Promote a rollout, abort it, or go back after it", {200: status}, *changed), admin=True)
    end["requestBody"] = _json_body(_ref("Reason"), required=False)
    verb = {"name": "verb", "in": "path", "required": True, "schema": {"enum": ["promote", "abort", "rollback"]}}
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50})
    model = _query("model", {"type": "string"})
    listing = _keyed(_operation("Rollouts, the newest first", {200: _json("The rollouts", listed)}, 400), admin=True)
    listing["parameters"] = [model, limit]
    entries = _keyed(_operation("Who did what, when and why", {200: _json("The journal", journal)}, 400), admin=True)
    entries["parameters"] = [model, limit]
    return {
        "/admin/rollouts": {"get": listing, "post": start},
        "/admin/rollouts/{number}": {
            "parameters": [number],
            "get": _keyed(_operation("One rollout", {200: status}, 400, 404), admin=True),
        },
        "/admin/rollouts/{model}/{verb}": {"parameters": [*_path("model"), verb], "post": end},
        "/admin/journal": {"get": entries},
    }


def _others() -> Json:
    text = {"description": "Prometheus' text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    page = {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}}
    described = _json("This document", {"type": "object"})
    return {
        "/metrics": {"get": _keyed(_operation("What all workers counted", {200: text}, 404))},
        "/openapi.json": {"get": _operation("What you are reading", {200: described})},
        "/": {"get": _operation("The console", {200: page})},
    }


def _schemas() -> Json:
    name, shape = {"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0}}
    datatype = {"enum": DATATYPES}
    data = {"type": "array", "description": "The values, flat in row-major order or nested as the shape is"}
    parameters = {"type": "object"}
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters}
    described = _object(
        {"name": name, "datatype": datatype, "shape": {"type": "array", "items": {"type": "integer"}}},
        *("name", "datatype", "shape"),
    )
    wanted = _object({"name": name, "parameters": parameters}, "name")
    both = {"inputs": {"type": "array", "items": described}, "outputs": {"type": "array", "items": described}}
    model = {"name": name, "versions": {"type": "array", "items": name}, "platform": name, **both}
    states = {"enum": ["READY", "LOADING", "UNAVAILABLE"]}
    row = {"name": name, "version": name, "state": states, "reason": {"type": "string"}}
    given = _object({**tensor, "data": data}, "name", "shape", "datatype")
    answer = {"model_name": name, "model_version": name, "id": name, "outputs": {"type": "array", "items": given}}
    request = {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _object({**tensor, "data": data}, "name", "shape", "datatype", "data")},
        "outputs": {"type": "array", "items": wanted},
    }
    return {
        "Error": _object({"error": {"type": "string"}}, "error"),
        "Server": _object(
            {"name": name, "version": name, "extensions": {"type": "array", "items": name}},
            *("name", "version", "extensions"),
        ),
        "Model": _object(model, *model),
        "InferRequest": _object(request, "inputs"),
        "InferResponse": _object(answer, "model_name", "model_version"),
        "IndexRow": _object(row, *row),
        "Loaded": _object({"name": name, "version": name}, "name", "version"),
    }


def _rollout_schemas() -> Json:
    import msgspec

    from tightship.serve.rollout.status import Order, Reason, Status
    from tightship.serve.state import JournalEntry

    kinds = [Order, Reason, Status, JournalEntry]
    found: Json = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")[1]
    return found


def _operation(summary: str, answers: Json | dict[int, Json], *failures: int) -> Json:
    failed = {status: _json(WHY[status], _ref("Error")) for status in failures}
    return {"summary": summary, "responses": {str(status): answer for status, answer in (answers | failed).items()}}


def _keyed(operation: Json, admin: bool = False) -> Json:
    """The same for who has an API key: an administrator's, or one for inference as soon as there is any."""
    for status in (401, 403, 421, 429):
        operation["responses"].setdefault(str(status), _json(WHY[status], _ref("Error")))
    return {**operation, "security": [*([] if admin else [{}]), {"bearer": []}, {"key": []}]}


def _path(*names: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]


def _query(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _object(properties: Json, *required: str) -> Json:
    found: Json = {"type": "object", "properties": properties}
    return found | ({"required": list(required)} if required else {})


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _json_body(schema: Json, required: bool = True) -> Json:
    return {"required": required, "content": {"application/json": {"schema": schema}}}
