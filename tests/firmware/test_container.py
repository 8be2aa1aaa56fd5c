"""The manifests for clusters: judged by Kubernetes' own schemas, and what a hospital's admission rules ask for.

No container engine runs here; nothing was built or started from these files.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from appliance.store import Store
from firmware.image import wheels
from firmware.image.boards import AARCH64, X86_64, board
from tests.running import CHECKOUT, PYTHON

FOLDER = CHECKOUT / "firmware" / "container"


def manifests() -> dict[str, dict[str, Any]]:
    """By their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}


@pytest.fixture(scope="module")
def kinds() -> dict[str, dict[str, Any]]:
    return manifests()


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_the_manifests_have_the_form_that_kubernetes_takes(kinds: dict[str, dict[str, Any]], version: str) -> None:
    """From the first version whose ReadWriteOncePod is stable; strict: an unknown field is an error."""
    for manifest in kinds.values():
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_schemas_find_a_slip_of_the_pen(kinds: dict[str, dict[str, Any]]) -> None:
    slip = copy.deepcopy(kinds["Deployment"])
    slip["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {"tcpSocket": {"port": "dicom"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(slip, "1.37", strict=True)


def test_the_pod_meets_the_restricted_profile(kinds: dict[str, dict[str, Any]]) -> None:
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_what_the_manifests_name_is_there(kinds: dict[str, dict[str, Any]]) -> None:
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Service"]["spec"]["selector"] == labels == kinds["Deployment"]["spec"]["selector"]["matchLabels"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert {each["name"] for each in pod["containers"][0]["volumeMounts"]} == set(volumes)
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]


def probes() -> dict[str, list[str]]:
    """Commands by which an engine and a cluster ask whether it lives."""
    (container,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    health = re.findall(r"(?m)^HEALTHCHECK .* CMD (\[.*\])$", (FOLDER / "Containerfile").read_text())
    return {
        "startupProbe": container["startupProbe"]["exec"]["command"],
        "livenessProbe": container["livenessProbe"]["exec"]["command"],
        "HEALTHCHECK": json.loads(health[0]),
    }


@pytest.mark.parametrize("page", ["enabled = false", 'host = "0.0.0.0"', "port = 8443"])
def test_the_page_may_be_elsewhere_or_not_at_all(tmp_path: Path, page: str) -> None:
    config = tmp_path / "scanside.toml"
    config.write_text(f'data_dir = "{tmp_path / "data"}"\n[web]\n{page}\n')
    (tmp_path / "data").mkdir()
    Store(tmp_path / "data" / "ledger.sqlite3").close()
    for program, *arguments in {tuple(command) for command in probes().values()}:
        assert program == "/opt/scanside/bin/scanside"
        command = [PYTHON, "-m", "appliance", *(str(config) if each.startswith("/") else each for each in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


def test_one_ledger_has_one_appliance(kinds: dict[str, dict[str, Any]]) -> None:
    assert kinds["Deployment"]["spec"]["replicas"] == 1
    assert kinds["Deployment"]["spec"]["strategy"]["type"] == "Recreate"


def test_a_container_on_arm64_has_the_same_packages() -> None:
    versions = [{name: pin for name, (pin, _) in wheels.locked(board("generic"), machine).items()} for machine in (
        X86_64, AARCH64)]  # fmt: skip
    assert versions[0] == versions[1], "scanside-firmware lock --board generic --machine aarch64"
    lines = (FOLDER / "Containerfile").read_text().splitlines()
    for docker, machine in (("amd64", X86_64), ("arm64", AARCH64)):
        path = wheels.lock_of(board("generic"), machine).relative_to(CHECKOUT)
        assert f"COPY {path} /src/{docker}.lock" in lines


def test_the_container_is_not_root_and_knows_its_files() -> None:
    lines = (FOLDER / "Containerfile").read_text().splitlines()
    assert "USER 950:950" in lines
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            assert all((CHECKOUT / name).exists() for name in line.split()[1:-1]), line
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["scanside"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
