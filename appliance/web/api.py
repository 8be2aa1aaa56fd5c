"""The JSON API: how its operations are declared, and how they answer. `appliance.web.openapi` tells of them.

An operation is a function of what it is asked to what it answers, both structs of `appliance.web.api_model`. It stands
below `needs`, which stands below the route.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest, HTTPException, UnsupportedMediaType

from appliance.errors import ApplianceError, SpoolError
from appliance.web.api_model import Problem

PREFIX = "/api/"
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """What the document says of a view; ``errors`` besides those that any operation may answer."""

    summary: str
    answer: type
    query: type | None
    body: type | None
    errors: tuple[int, ...]
    status: int


def operation(
    summary: str,
    answer: type,
    *,
    query: type | None = None,
    body: type | None = None,
    errors: tuple[int, ...] = (),
    status: int = 200,
) -> Callable[[T], Callable[..., Response]]:
    """Declare a view: it gets its ``query`` or ``body`` as its last argument, and returns its answer."""

    def declare(view: T) -> Callable[..., Response]:
        @wraps(view)
        def call(**values: Any) -> Response:
            asked = []
            if query is not None:
                asked.append(_query(query))
            if body is not None:
                asked.append(_body(body))
            return reply(view(*values.values(), *asked), status)

        call.operation = Operation(summary, answer, query, body, errors, status)  # type: ignore[attr-defined]
        return call

    return declare


def reply(answer: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, mimetype="application/json")


def problem(error: HTTPException) -> Response:
    """An error as RFC 9457 has it."""
    told = Problem(title=error.name, status=error.code or 500, detail=str(error.description or error.name))
    response = Response(msgspec.json.encode(told), told.status, mimetype="application/problem+json")
    response.headers.extend((name, value) for name, value in error.get_headers() if name != "Content-Type")
    return response


def _query(kind: type) -> Any:
    given = request.args.to_dict(flat=False)
    for name, values in given.items():
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times.")
    return _as(kind, {name: values[0] for name, values in given.items()}, strict=False)


def _body(kind: type) -> Any:
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("Send application/json.")
    try:
        return _as(kind, _with_whole_numbers(msgspec.json.decode(request.get_data())))
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is no JSON: {error}.") from error


def _with_whole_numbers(given: Any) -> Any:
    """In JSON 5.0 is an integer, too."""
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if isinstance(given, list):
        return [_with_whole_numbers(each) for each in given]
    if isinstance(given, dict):
        return {name: _with_whole_numbers(each) for name, each in given.items()}
    return given


def _as(kind: type, given: Any, strict: bool = True) -> Any:
    try:
        return msgspec.convert(given, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{error}. See /api/v1/openapi.json.") from error


def _refused(error: ApplianceError) -> Response:
    """A ledger that can't be used now may be later; anything else is the state of what was asked for."""
    words = ". ".join(each[0].upper() + each[1:] for each in (error.message, error.hint or "") if each)
    refused = HTTPException(f"{words}.")
    refused.code = 503 if isinstance(error, SpoolError) else 409
    return problem(refused)


def routes(name: str) -> Blueprint:
    """A blueprint for some of the operations."""
    blueprint = Blueprint(name, __name__, url_prefix=f"{PREFIX}v1")
    blueprint.register_error_handler(ApplianceError, _refused)
    return blueprint
