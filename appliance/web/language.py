"""The language of an answer, and its words.

One rule: ``web.language`` names it; where that is "browser", it is the one of `LANGUAGES` that the browser likes best.
What systems ask for is in English always, and so are the ledger and the log.

English sentences are the keys of the catalogs in ``translations/`` (gettext; `make translations` renews them). Those
that stand in other parts of the appliance, or were kept in the ledger, are translated by `appliance.web.recorded`.
"""

from __future__ import annotations

import gettext as catalogs
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, g, has_request_context, request
from markupsafe import Markup

from appliance.web import here
from appliance.web.rights import API, FOR_SYSTEMS

LANGUAGES = ("en", "de")  # the first is that of the sentences in the code
FOLDER = Path(__file__).with_name("translations")
Key = TypeVar("Key")
_OF_SYSTEMS = (API, FOR_SYSTEMS, "/metrics")


def current() -> str:
    """Of the present request; English where there is none."""
    if not has_request_context():
        return LANGUAGES[0]
    if "language" not in g:
        g.language = _language()
    found: str = g.language
    return found


def _language() -> str:
    if request.path.startswith(_OF_SYSTEMS):
        return LANGUAGES[0]
    config = here.config()
    if config.web.language != "browser":
        return config.web.language
    return request.accept_languages.best_match(LANGUAGES, LANGUAGES[0])


@cache
def catalog(name: str) -> catalogs.NullTranslations:
    """The words of a language; English has none of its own."""
    if name == LANGUAGES[0]:
        return catalogs.NullTranslations()
    return catalogs.translation("messages", FOLDER, [name])


def gettext(message: str, **values: Any) -> str:
    """A sentence in the language of the request, with ``%(name)s`` filled in; a percent sign is written twice."""
    return catalog(current()).gettext(message) % values


def marked(message: str) -> str:
    """Mark a sentence for the catalogs where it is translated later, by who shows it."""
    return message


def translated(words: Mapping[Key, str]) -> dict[Key, str]:
    """Words that were `marked`, in the language of the request."""
    return {key: gettext(each) for key, each in words.items()}


def install(app: Flask) -> None:
    """Give the templates ``{% trans %}``, ``_`` and ``language()``."""
    environment = app.jinja_env
    environment.policies["ext.i18n.trimmed"] = True
    environment.add_extension("jinja2.ext.i18n")
    environment.newstyle_gettext = True  # type: ignore[attr-defined]
    environment.globals.update(_=_escaped, gettext=_escaped, ngettext=_escaped_number, language=current)


def _escaped(message: str, /, **values: Any) -> Markup:
    """For templates, which are HTML all. The extension's own functions look up the context: half the time of a page."""
    return Markup(catalog(current()).gettext(message)) % values  # noqa: S704 (our own sentence; values are escaped)


def _escaped_number(one: str, many: str, n: int, /, **values: Any) -> Markup:
    return Markup(catalog(current()).ngettext(one, many, n)) % {"num": n, **values}  # noqa: S704 (as above)
