"""The framework by itself, without clients: what a driver answers, and that the page is about this suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.bench import files_in, settled
from tests.conformance.cases import CASES
from tests.conformance.clients import CLIENTS
from tests.conformance.cog_cases import COG_CASES, COG_SUBJECTS, SERVERS
from tests.conformance.environments import DRIVERS
from tests.conformance.report import PAGE, Incomplete, Outcomes, render
from tests.conformance.suite import at_the_api, modes_of

TOY = """
import line_server

def fail(ask):
    print("this must not be taken for an answer")
    raise ValueError("no such thing")

line_server.serve(
    {"echo": lambda ask: {"seen": [ask.base_url, ask.args]}, "fail": fail, "never": line_server.cannot("it is a toy")},
    lambda error: {"status": 404},
)
"""


def asked(*requests: dict[str, Any]) -> list[Any]:
    """What a driver answers, line by line."""
    lines = "".join(json.dumps({"base_url": "https://127.0.0.1:1", "token": "t", **each}) + "\n" for each in requests)
    done = subprocess.run(
        [sys.executable, "-c", TOY], input=lines, capture_output=True, text=True, timeout=30, cwd=DRIVERS, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_driver_answers_each_request_with_one_line_whatever_the_client_prints() -> None:
    answers = asked({"case": "echo", "args": {"a": 1}}, {"case": "fail"}, {"case": "never"}, {"case": "unheard-of"})
    assert answers == [
        {"ok": True, "result": {"seen": ["https://127.0.0.1:1", {"a": 1}]}},
        {
            "ok": False,
            "error": {"type": "ValueError", "status": 404, "retry_after": None, "message": "no such thing"},
        },
        {"unsupported": "it is a toy"},
        {"unsupported": "unknown case"},
    ]


def test_every_client_has_a_driver_a_lock_and_a_version() -> None:
    for client in CLIENTS:
        folder = DRIVERS / client.name
        assert (folder / "driver.py").is_file() or (folder / "driver.mjs").is_file()
        assert client.version[0].isdigit()
        assert client.cannot | (client.can or frozenset()) <= CASES.keys()
    named = {
        path.name for path in DRIVERS.iterdir() if (path / "driver.py").is_file() or (path / "driver.mjs").is_file()
    }
    assert named == {client.name for client in CLIENTS}, "a driver that no client names is never run"


def test_locks_name_hashes_and_no_hosts() -> None:
    for lock in [*DRIVERS.glob("*/requirements.lock"), *Path(__file__).parent.glob("cog/*/requirements.lock")]:
        text = lock.read_text(encoding="utf-8")
        assert text.count("--hash=sha256:") >= text.count("==") > 0
        assert "://" not in text
    for lock in DRIVERS.glob("*/package-lock.json"):
        assert "resolved" not in lock.read_text(encoding="utf-8")


def test_times_and_addresses_are_no_difference() -> None:
    mine = {"created_at": "2026", "urls": ["https://127.0.0.1:1/a"], "run_count": 3, "name": "x"}
    yours = {"created_at": "2027", "urls": ["http://localhost:2/a"], "run_count": 4, "name": "x"}
    assert settled(mine) == settled(yours) == {"urls": ["/a"], "name": "x"}
    assert settled({"urls": ["https://example.com/a"]}) != settled({"urls": ["https://127.0.0.1:1/a"]})
    file = {"sha256": "0", "size": 1, "kind": "bytes"}
    assert files_in({"a": [file, {"b": file}], "sha256": "not a file"}) == [file, file]


def everything(outcome: str) -> Outcomes:
    subjects = [(at_the_api(client), CASES) for client in CLIENTS] + [(subject, COG_CASES) for subject in COG_SUBJECTS]
    return {
        subject.name: {
            case.name: {mode: {"outcome": outcome, "reason": "because"} for mode in modes_of(subject, case)}
            for case in cases.values()
        }
        for subject, cases in subjects
    }


def test_page_tells_what_passed_what_failed_and_what_a_client_cannot_do() -> None:
    outcomes = everything("passes")
    outcomes["litellm"]["cancel"]["miss"] = {"outcome": "fails", "reason": "the run goes on"}
    outcomes["ai-sdk"]["listing"]["hit"] = {"outcome": "cannot", "reason": "it has no way to list"}
    page = render(outcomes)
    assert "| ✓ ✗ ✓ |" in page
    assert "- **ai-sdk**: it has no way to list (" in page
    assert f"- **litellm**, {CASES['cancel'].title}: miss" in page
    assert "## What does not work yet" not in render(everything("passes"))
    del outcomes["litellm"]["cancel"]["miss"]
    with pytest.raises(Incomplete, match=r"litellm: cancel \(miss\)"):
        render(outcomes)


def test_committed_page_names_exactly_the_clients_and_cases_of_the_suite() -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in page if line.startswith("|") and not line.startswith("| ---")]
    wanted = [line for line in render(everything("passes")).splitlines() if line.startswith("| ")]
    first = [row.split("|")[1].strip() for row in rows]
    assert first == [row.split("|")[1].strip() for row in wanted if not row.startswith("| ---")]
    assert rows[: len(CLIENTS) + 1] == [row for row in wanted if not row.startswith("| ---")][: len(CLIENTS) + 1]
    header = next(row for row in rows if row.startswith("| a client can"))
    assert [cell.strip() for cell in header.split("|")[2:-1]] == [client.name for client in CLIENTS]
    for server, version in SERVERS.items():
        assert any(f"cog {version}" in row for row in rows), server
