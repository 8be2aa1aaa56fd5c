"""Which right a route asks for, and whose request it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Request, g

from appliance.accounts import Right

FOR_SYSTEMS = "/dicom-web/"  # below this no person looks, and a login is HTTP's Basic one (RFC 7617) or a token
API = "/api/"
_POLLED = (API, "/metrics")
View = TypeVar("View", bound=Callable[..., Any])


def needs(right: Right, automatic: bool = False) -> Callable[[View], View]:
    """Mark a view as one for people and tokens with this right; stands below the route's own decorator.

    Parameters
    ----------
    automatic
        Pages that are open ask for it by themselves, again and again or in parts, with nobody doing anything. It keeps
        no session alive, and the audit trail has it once in ten minutes for each session and object.
    """

    def mark(view: View) -> View:
        view.needs, view.automatic = right, automatic  # type: ignore[attr-defined]
        return view

    return mark


def right_of(app: Flask, endpoint: str | None) -> Right:
    """What a request needs; where there is no such route, to see that there is none."""
    if endpoint is None:
        return "see"
    if endpoint == "static":
        return "open"  # the same for everybody, and without it the login has no look
    right: Right = getattr(app.view_functions[endpoint], "needs")  # noqa: B009 (Flask types no attributes)
    return right


def is_automatic(app: Flask, request: Request) -> bool:
    """Whether a page or a system asks by itself, with nobody doing anything."""
    if request.endpoint is None or request.method != "GET":
        return False
    return request.path.startswith(_POLLED) or getattr(app.view_functions[request.endpoint], "automatic", False)


def refuse_unmarked(app: Flask) -> None:
    """Raise where a route does not say who may use it, before anybody can."""
    unmarked = sorted(
        name for name, view in app.view_functions.items() if name != "static" and not hasattr(view, "needs")
    )
    if unmarked:
        raise RuntimeError(f"put @needs(...) below the route of {', '.join(unmarked)}: nobody knows who may use it")


def current_person() -> str:
    """The account's name that this request is made under; '' where no login is asked for."""
    name: str = g.get("person", "")
    return name


def may(right: Right) -> bool:
    """Whether who makes this request has a right; for buttons."""
    return right in g.get("rights", frozenset())
