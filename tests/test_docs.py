"""Documents that must stay true."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from proxy.settings import load_settings

ROOT = Path(__file__).parent.parent


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("configuration_page", ROOT / "docs" / "configuration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page_is_what_the_settings_say() -> None:
    page = _generator()
    assert page.TARGET.read_text(encoding="utf-8") == page.render(), "run `make docs`"


def test_every_setting_has_a_description() -> None:
    missing = [line for line in _generator().render().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert missing == []


def test_the_example_on_the_configuration_page_is_accepted(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", _generator().HEAD, re.DOTALL)
    assert example is not None
    file = tmp_path / "hotplate.toml"
    file.write_text(example.group(1), encoding="utf-8")
    assert [one.name for one in load_settings(file).upstream] == ["gpus", "replicate"]


def test_version_is_the_newest_in_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(one for one in versions if one != "Unreleased") == version


def test_every_test_that_the_page_of_threats_names_is_there() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "threats.md").read_text(encoding="utf-8"))
    there = {
        name
        for file in (ROOT / "tests").glob("**/test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 50
    assert sorted(set(named) - there) == []


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
