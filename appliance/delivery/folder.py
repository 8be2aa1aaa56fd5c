"""Results as files in a folder, for software that fetches them from there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from appliance.config import Config, Destination
from appliance.delivery.way import Answer, Item
from appliance.errors import DeliveryError, SpoolError
from appliance.spool import write_durably

_MODE = 0o640  # whoever fetches them is of the folder's group


class FolderWay:
    """See the module; `appliance.delivery.way.Way`.

    A file appears under its name whole or not at all. It is named by what identifies the result, so that one that is
    written again takes the place of the same.
    """

    def __init__(self, destination: Destination, config: Config) -> None:
        self._folder = config.data / destination.path

    def check(self) -> None:
        if not self._folder.is_dir():
            raise DeliveryError(f"{self._folder} is no folder", hint="make it, or mount what it is on")
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise DeliveryError(f"{self._folder} may not be written to", hint="give this user the right")

    def send(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item in items:
            try:
                content = item.path.read_bytes()
            except OSError as error:
                yield Answer(item, f"{item.path} can't be read: {error.strerror}", "item")
                continue
            try:
                self.check()  # or a mount that is gone would be written to from below
                write_durably(self._folder / f"{item.sop_instance_uid}{item.path.suffix}", content, mode=_MODE)
            except (DeliveryError, SpoolError) as error:
                yield Answer(item, str(error), "destination")
                return
            yield Answer(item)

    def close(self) -> None:
        pass
