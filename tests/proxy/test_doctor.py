from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from proxy import doctor
from proxy.doctor import Finding, diagnose
from proxy.settings import load_settings
from tests.flows.harness import local_config, running_proxy


@pytest.fixture(scope="module")
def api() -> Iterator[FakeModel]:
    with fake_model() as api:
        yield api


def examined(data_dir: Path, token: str | None = None, **overrides: Any) -> dict[str, Finding]:
    settings = load_settings(overrides={"data_dir": data_dir, "public": {"port": 1}, **overrides})
    return {finding.name: finding for finding in diagnose(settings, token)}


def replicate(base_url: str) -> dict[str, Any]:
    return {"upstream": [{"kind": "replicate", "name": "replicate", "base_url": base_url}]}


def test_every_check_answers_and_every_failure_has_a_remedy(tmp_path: Path) -> None:
    found = examined(tmp_path / "data", **replicate("http://127.0.0.1:1/v1"))
    assert list(found) == [
        "folder",
        "disk",
        "fsync",
        "public URL",
        "trust",
        "proxy",
        "clock",
        "replicate",
        "credential",
    ]
    assert all(finding.is_ok or finding.remedy for finding in found.values())
    assert not found["proxy"].is_ok
    assert not found["replicate"].is_ok
    assert not found["credential"].is_ok


def test_good_credential_is_told_from_a_bad_and_a_missing_one(tmp_path: Path, api: FakeModel) -> None:
    upstream = replicate(api.base_url)
    assert examined(tmp_path, ALICE, **upstream)["credential"].is_ok
    assert "refuses" in examined(tmp_path, "r8_wrong", **upstream)["credential"].detail
    assert "not set" in examined(tmp_path, None, **upstream)["credential"].detail
    assert examined(tmp_path, ALICE, **upstream)["replicate"].is_ok
    assert "against replicate" in examined(tmp_path, ALICE, **upstream)["clock"].detail


def test_running_proxy_is_found_over_tls_once_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_proxy(tmp_path / "data", local_config(), tls=True) as proxy:
        public = {"port": int(proxy.public_url.rpartition(":")[2])}
        overrides: dict[str, Any] = {
            "public": public,
            "tls": {"mode": "local-ca"},
            "upstream": [{"kind": "local", "name": "demo"}],
        }
        found = examined(proxy.data_dir, **overrides)
        assert found["proxy"].is_ok
        assert "hotplate env" in found["trust"].remedy
        monkeypatch.setenv("SSL_CERT_FILE", str(proxy.data_dir / "tls" / "ca-bundle.pem"))
        assert all(finding.is_ok for finding in examined(proxy.data_dir, **overrides).values())


@pytest.mark.parametrize(
    ("overrides", "name", "says"),
    [
        ({"public": {"host": "0.0.0.0", "port": 1}}, "public URL", "public.base_url"),
        ({"public": {"base_url": "http://no-such-host.invalid"}}, "public URL", "resolve"),
        ({"cache": {"output_urls": "url"}}, "public URL", "TLS"),
        ({"tls": {"mode": "files", "cert_file": "/none", "key_file": "/none"}}, "trust", ""),
        ({"upstream": [{"kind": "cog", "name": "gpus", "urls": ["http://127.0.0.1:1"]}]}, "gpus", "urls"),
        ({"upstream": [{"kind": "local", "name": "mine", "path": "/nowhere"}]}, "mine", "path"),
    ],
)
def test_each_trouble_is_found_and_has_its_remedy(
    tmp_path: Path, overrides: dict[str, Any], name: str, says: str
) -> None:
    finding = examined(tmp_path, **{**replicate("http://127.0.0.1:1/v1"), **overrides})[name]
    assert not finding.is_ok
    assert says in finding.remedy


def test_folder_that_others_can_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    assert "chmod 700" in examined(tmp_path / "data")["folder"].remedy


def test_full_disk_slow_disk_and_wrong_clock_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 2**60)
    monkeypatch.setattr(doctor, "SLOW_FSYNC_S", -1.0)
    monkeypatch.setattr(doctor, "CLOCK_SKEW_S", -1.0)
    found = examined(tmp_path)
    assert [name for name in ("disk", "fsync", "clock") if found[name].is_ok] == []


def test_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    examined(tmp_path)
    assert os.listdir(tmp_path) == []
