"""What no appliance starts with is refused before it has a data folder, and by whoever judges a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import package
from appliance.config_file import load
from appliance.errors import ConfigError
from tests.running import scanside


@pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[web.brand]\nlogo = "logo.png"\n', "web.brand.logo: "),
        ('[web.brand]\naccent_dark = "#000000"\n', "a contrast of 1.1 to 1"),
        ('[inference]\nbackend = "abacus"\n', "there is no backend 'abacus'"),
        ("[storage_scp]\nport = 8080\n", "storage_scp.port and web.port are both 8080"),
    ],
)
def test_it_is_said_alike_at_the_start_and_beforehand(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "scanside.toml"
    path.write_text(f'data_dir = "data"\n{text}')
    told = [scanside(command, "--config", path) for command in ("run", "conformance")]
    assert [each.returncode for each in told] == [1, 1]
    assert words in told[0].stderr and told[0].stderr == told[1].stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        ('host = "0.0.0.0"\nport = 8080', 'host = "127.0.0.1"\nport = 8080', False),
        ('host = "192.0.2.5"\nport = 8080', 'host = "::"\nport = 8080', False),
        ('host = "192.0.2.5"\nport = 8080', 'host = "127.0.0.1"\nport = 8080', True),
        ("port = 0", "port = 0", True),
        ("port = 8080\nenabled = false", "port = 8080", True),
    ],
)
def test_two_listeners_at_one_port(tmp_path: Path, one: str, other: str, fits: bool) -> None:
    path = tmp_path / "scanside.toml"
    path.write_text(f"[storage_scp]\n{one}\n[web]\n{other}\n")
    if fits:
        load(path)
    else:
        with pytest.raises(ConfigError, match=r"storage_scp\.port and web\.port are both 8080"):
            load(path)
