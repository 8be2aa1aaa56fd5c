"""The OpenAPI 3.1 document of the JSON API, made from its routes, its types and the rights that they ask for."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from flask import Flask
from werkzeug.routing import Rule

from appliance import __version__
from appliance.web.api import Operation
from appliance.web.api_model import Problem

_PARAMETER = re.compile(r"<[^<>]*?(\w+)>")
_RIGHTS = {
    "open": "Open to everybody.",
    "see": "For those who may see results.",
    "assess": "For those who may say whether a result is right.",
    "operate": "For those who look after the device.",
    "administer": "For those who may change settings and accounts.",
    "send": "For those who may send images.",
}
_EVERYWHERE = {
    400: "What was asked is not as it must be.",
    401: "A login or a token is needed.",
    403: "Not with this role or token, or not from this page.",
    404: "There is no such thing.",
    405: "Not with this method.",
    409: "Not in the state that it is in.",
    413: "The body is too large.",
    415: "Send application/json.",
    503: "The ledger can't be used at the moment.",
}
_ALWAYS = (401, 403, 503)
_INTRODUCTION = (
    "What the local page knows, for other systems. Log in with a token (`Authorization: Bearer ...`); each operation "
    "names the right that it asks for. Patients are pseudonyms, and UIDs are left out, unless the device's "
    "configuration says `web.show_patient = true`. Errors are `application/problem+json` (RFC 9457). Research use "
    "only, not for diagnosis."
)


def document(app: Flask) -> dict[str, Any]:
    """What an app serves below ``/api/v1``."""
    operations = [
        (rule, view, view.operation)  # type: ignore[attr-defined]
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        if hasattr(view := app.view_functions[rule.endpoint], "operation")
    ]
    types = {each for _, _, said in operations for each in (said.answer, said.query, said.body) if each is not None}
    _, components = msgspec.json.schema_components(
        [*sorted(types, key=lambda each: each.__name__), Problem], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for rule, view, said in operations:
        method = next(iter((rule.methods or set()) - {"HEAD", "OPTIONS"})).lower()
        paths.setdefault(_PARAMETER.sub(r"{\1}", rule.rule), {})[method] = _operation(rule, view, said, components)
    queries = {said.query.__name__ for _, _, said in operations if said.query is not None}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Scanside",
            "version": __version__,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in sorted(components.items()) if name not in queries},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(rule: Rule, view: Any, said: Operation, components: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
        }
        for name in sorted(rule.arguments)
    ]
    if said.query is not None:
        parameters += [_parameter(*field) for field in components[said.query.__name__]["properties"].items()]
    errors = {*_ALWAYS, *said.errors}
    errors |= {400} if said.query or said.body else set()
    errors |= {404} if rule.arguments else set()
    errors |= {413, 415} if said.body else set()
    told: dict[str, Any] = {
        "operationId": rule.endpoint.rpartition(".")[2],
        "summary": said.summary,
        "description": f"{_RIGHTS[view.needs]} Right: `{view.needs}`.",
        "x-right": view.needs,
        "responses": {
            str(said.status): {"description": "It is done.", "content": _content("application/json", said.answer)},
            **{
                str(code): {
                    "description": _EVERYWHERE[code],
                    "content": _content("application/problem+json", Problem),
                }
                for code in sorted(errors)
            },
        },
    }
    if parameters:
        told["parameters"] = parameters
    if said.body is not None:
        told["requestBody"] = {"required": True, "content": _content("application/json", said.body)}
    return told


def _content(mimetype: str, kind: type) -> dict[str, Any]:
    return {mimetype: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        schema = {"type": "string", **schema}
    return {"name": name, "in": "query", "required": False, "schema": schema}
