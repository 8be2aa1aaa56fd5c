"""Numbers in routes: ``<row:number>`` is the number of a row of the ledger."""

from __future__ import annotations

from flask import Flask
from werkzeug.routing import IntegerConverter, Map


class RowNumber(IntegerConverter):
    """From 1 to the largest that SQLite keeps; anything else is no address."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, min=1, max=2**63 - 1)


def install(app: Flask) -> None:
    """To be called before routes are registered."""
    app.url_map.converters["row"] = RowNumber
