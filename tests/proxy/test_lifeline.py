"""What the supervisor hands down to the processes that it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.lifeline import Start, hand_over, take_over
from proxy.settings import load_settings

FILE = """
data_dir = "/somewhere"
[admin]
token = "an-admin-token-of-ours"
[auth]
tokens = ["a-long-random-token-of-yours", "another-token-of-somebody"]
[workers]
count = 4
[storage]
max_bytes = "2 GB"
[[upstream]]
kind = "local"
name = "demo"
environment = { A = "1" }
[[upstream]]
kind = "cog"
name = "gpus"
urls = ["http://10.0.0.1:5000"]
[[upstream]]
kind = "replicate"
name = "replicate"
output_origins = ["http://10.0.0.5:9000"]
"""


def test_child_has_exactly_the_settings_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hotplate.toml"
    file.write_text(FILE)
    settings = load_settings(file)
    values = json.loads(json.dumps(hand_over(settings)))
    monkeypatch.setenv("HOTPLATE_WORKERS__COUNT", "7")
    monkeypatch.setenv("HOTPLATE_ADMIN__TOKEN", "changed-since-the-parent-has-started")
    taken = take_over(values, settings.source)
    assert taken.source == settings.source == (str(file), {})
    assert taken.read_anew().workers.count == 7, "a reload reads what stands there now"
    assert taken.model_dump() == settings.model_dump()
    assert taken.admin.token is not None
    assert taken.admin.token.get_secret_value() == "an-admin-token-of-ours"
    assert taken.workers.lanes == 5


def test_start_is_one_line() -> None:
    start = Start("edge", 2, "http://a", "http://b", "/core", "/channel", {"public": 5}, {"text": "one\ntwo"})
    assert start.line().count(b"\n") == 1
    assert Start(**json.loads(start.line())) == start
