from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy import __version__, cli
from proxy.settings import SettingsError
from tests.flows.harness import README_MODEL, SMALL, local_config, running_proxy

RUNNER = CliRunner()


def test_version_is_the_distribution_s() -> None:
    assert RUNNER.invoke(cli.app, ["version"]).output == f"hotplate {__version__}\n"
    assert __version__ != "0+unknown"


def test_every_command_explains_itself() -> None:
    help_text = RUNNER.invoke(cli.app, ["--help"]).output
    for command in (
        "serve",
        "demo",
        "env",
        "run",
        "explain",
        "observe",
        "bypass",
        "reload",
        "purge",
        "stats",
        "doctor",
        "version",
    ):
        assert command in help_text
        assert RUNNER.invoke(cli.app, [command, "--help"]).exit_code == 0


def test_mistake_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hotplate", "doctor", "--config", "/nowhere.toml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("hotplate: /nowhere.toml: cannot be read")


@pytest.mark.parametrize("arguments", [["run"], ["run", "--", "/nowhere/program"], ["env", "--format", "cmd"]])
def test_wrong_use_names_what_is_wrong(arguments: list[str]) -> None:
    result = RUNNER.invoke(cli.app, arguments)
    assert isinstance(result.exception, SettingsError)
    assert arguments[0] in str(result.exception) or "--format" in str(result.exception)


def test_explain_says_how_the_key_comes_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"model": README_MODEL, "input": {"prompt": "x", "seed": 3.0, "junk": 1, **SMALL}}))
    with running_proxy(tmp_path / "data", local_config()) as proxy:
        monkeypatch.setenv("HOTPLATE_ADMIN__PORT", proxy.admin_url.rpartition(":")[2])
        said = json.loads(RUNNER.invoke(cli.app, ["explain", "--json", str(request)]).output)
        assert said["normalised"]["seed"] == 3
        assert said["normalised"]["output_format"] == "webp"
        assert "junk" not in said["sent"]
        assert len(said["key"]) == 64
        assert said["is_stored"] is False
        table = RUNNER.invoke(cli.app, ["explain", str(request)]).output
        assert said["key"][:16] in table
        assert proxy.runs() == 0
        request.write_text('{"model": ')
        refused = RUNNER.invoke(cli.app, ["explain", str(request)])
        assert "Invalid JSON" in str(refused.exception)
    gone = RUNNER.invoke(cli.app, ["explain", str(request)])
    assert "hotplate serve" in str(gone.exception)
