"""What is decided where things are built."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.building_upstreams import _is_told
from proxy.settings import PublicSettings, Settings
from proxy.upstream_settings import ReplicateUpstreamSettings


@pytest.mark.parametrize(
    ("base_url", "is_told"),
    [
        ("https://images.example.com", True),
        ("https://images.example.com:8443/proxied", True),
        ("https://8.8.8.8", True),
        (None, False),
        ("http://images.example.com", False),
        ("https://localhost", False),
        ("https://127.0.0.1:8484", False),
        ("https://[::1]", False),
        ("https://10.0.0.5", False),
        ("https://192.168.1.7:8484", False),
        ("https://169.254.1.1", False),
    ],
)
def test_api_is_asked_to_tell_where_its_posts_could_arrive(tmp_path: Path, base_url: str | None, is_told: bool) -> None:
    settings = Settings(data_dir=tmp_path, public=PublicSettings(base_url=base_url))
    asked = {
        how: _is_told(ReplicateUpstreamSettings(kind="replicate", name="api", webhooks=how), settings)
        for how in ("auto", "on", "off")
    }
    assert asked == {"auto": is_told, "on": True, "off": False}
