"""Which right a route asks for, and whose request it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from flask import g

# open: everybody, before the login; see: results; assess: say whether they are right; operate: look after the device;
# administer: accounts and settings; send: images into it.
Right = Literal["open", "see", "assess", "operate", "administer", "send"]
View = TypeVar("View", bound=Callable[..., Any])


def needs(right: Right) -> Callable[[View], View]:
    """Mark a view as one for people and tokens with this right; stands below the route's own decorator."""

    def mark(view: View) -> View:
        view.needs = right  # type: ignore[attr-defined]
        return view

    return mark


def current_person() -> str:
    """The account's name that this request is made under; '' where no login is asked for."""
    name: str = g.get("person", "")
    return name
