"""What many browsers ask for at once is made once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.web.app import create_app
from appliance.web.once import Once
from tests.appliance.conftest import account, browser, log_in
from tests.appliance.test_web import Box


def test_many_that_ask_at_once_get_what_one_has_made() -> None:
    once, made, started = Once(), [], threading.Barrier(8)

    def make() -> str:
        made.append(1)
        time.sleep(0.05)
        return "text"

    def ask(_: int) -> str:
        started.wait()
        return once.get("key", make)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["text"] * 8
    assert len(made) == 1
    assert once.get("other", lambda: "more") == "more"


def test_what_fails_is_tried_by_the_next_and_few_are_kept() -> None:
    once = Once()

    def fail() -> str:
        raise ValueError

    with pytest.raises(ValueError):
        once.get("key", fail)
    assert once.get("key", lambda: "text") == "text"
    for number in range(100):
        once.get(f"{number}", lambda: "x")
    assert once.get("key", lambda: "made anew") == "made anew"


def test_the_worklist_s_part_changes_with_the_ledger_and_with_who_asks(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.add(1, 0.9)
    account(box.config.ledger_path, admin="administrator", viewer="viewer")
    app = create_app(box.config)
    first, second = browser(app), browser(app)
    log_in(first, "admin")
    log_in(second, "viewer")
    before = first.get("/worklist.fragment")
    assert second.get("/worklist.fragment").status_code == 200
    assert first.get("/worklist.fragment", headers={"If-None-Match": before.headers["ETag"]}).status_code == 304
    box.add(2, 0.1)
    after = first.get("/worklist.fragment", headers={"If-None-Match": before.headers["ETag"]})
    assert after.status_code == 200
    assert after.data != before.data
