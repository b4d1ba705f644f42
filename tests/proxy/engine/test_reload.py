from __future__ import annotations

from pathlib import Path

import pytest

from proxy.core.entitlement import parse_rule, token_id
from proxy.core.policy import PolicyBook
from proxy.engine.announcements import Announcements
from proxy.engine.policies import PolicyDesk
from proxy.engine.reload import Reload
from proxy.settings import SettingsError, load_settings
from tests.fakes.engine import Engine

pytestmark = pytest.mark.anyio

OLD = '[[policy]]\nmodels = ["acme/*"]\nmode = "off"\n'
NEW = '[limits]\nmax_waiters = 7\n[admin]\ntoken = "another-token-entirely"\n' + OLD.replace("off", "read_only") + OLD


def begin(file: Path, text: str) -> tuple[Reload, PolicyDesk, Announcements]:
    file.write_text(text, encoding="utf-8")
    settings = load_settings(file, {"public": {"port": 0}})
    desk, announcements, engine = PolicyDesk(settings.policy_book()), Announcements(), Engine()
    return Reload(settings, desk, engine.gatekeeper, engine.books, announcements), desk, announcements


def mode(book: PolicyBook) -> str:
    policy = book.find(None, "acme/pixel")
    assert policy is not None
    return policy.mode


async def test_policies_change_and_other_settings_are_named_without_their_values(tmp_path: Path) -> None:
    reload, desk, announcements = begin(tmp_path / "hotplate.toml", OLD)
    assert mode(desk.book) == "off"
    (tmp_path / "hotplate.toml").write_text(NEW, encoding="utf-8")
    done = await reload.reload()
    assert (done.policies, done.has_changed) == (2, True)
    assert done.needs_restart == ("admin.token", "limits.max_waiters"), "the command line's port is what it was"
    assert mode(desk.book) == "read_only"
    assert len(reload.tables) == 2
    assert announcements.snapshot()[0][1]["policies"][0]["mode"] == "read_only"
    again = await reload.reload()
    assert not again.has_changed
    assert again.needs_restart == done.needs_restart, "they still take a restart"


@pytest.mark.parametrize("bad", ["[[policy", '[[policy]]\nmode = "maybe"\n', '[[policy]]\nseedless = "pool:1"\n'])
async def test_bad_file_changes_nothing_and_says_why_in_one_line(tmp_path: Path, bad: str) -> None:
    reload, desk, _ = begin(tmp_path / "hotplate.toml", OLD)
    book = desk.book
    (tmp_path / "hotplate.toml").write_text(bad, encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        await reload.reload()
    assert "\n" not in str(raised.value)
    assert desk.book is book
    assert len(reload.tables) == 1


async def test_environment_still_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTPLATE_POLICY", '[{"models": ["acme/*"], "mode": "write_only"}]')
    reload, desk, _ = begin(tmp_path / "hotplate.toml", OLD)
    (tmp_path / "hotplate.toml").write_text(NEW, encoding="utf-8")
    await reload.reload()
    assert mode(desk.book) == "write_only"


async def test_another_process_that_hears_of_it_has_the_same_policies(tmp_path: Path) -> None:
    reload, desk, announcements = begin(tmp_path / "hotplate.toml", OLD)
    (tmp_path / "hotplate.toml").write_text(NEW + 'name = "calm"\nseedless = "pool:3"\nttl_s = inf\n', encoding="utf-8")
    await reload.reload()
    other, other_desk, heard = begin(tmp_path / "other.toml", "")
    for topic, payload in announcements.snapshot():
        heard.announce(topic, payload)
    assert other_desk.book.policies == desk.book.policies
    assert other.tables == reload.tables


async def test_groups_and_prices_change_with_the_policies(tmp_path: Path) -> None:
    file, engine = tmp_path / "hotplate.toml", Engine()
    file.write_text(OLD, encoding="utf-8")
    settings = load_settings(file)
    reload = Reload(settings, engine.desk, engine.gatekeeper, engine.books, Announcements())
    asked, team = engine.request(), parse_rule("group:team")
    own = engine.gatekeeper.results_scope(engine.upstream, asked.credential, team)
    member = token_id(engine.secrets, asked.credential.token) if asked.credential is not None else ""
    group = f'[auth.groups]\nteam = ["token:{member}"]\n'
    file.write_text(group + OLD + "price_per_second = 2.0\n", encoding="utf-8")
    done = await reload.reload()
    assert done.has_changed
    assert done.needs_restart == ()
    assert engine.gatekeeper.results_scope(engine.upstream, asked.credential, team) != own
    file.write_text(OLD, encoding="utf-8")
    engine.books.run_ended("ping", engine.upstream.name, "acme/pixel", asked.scope, 1.5, 1)
    (account,) = engine.books._accounts.values()
    assert account.price.per_second == 2.0
    assert (await reload.reload()).has_changed
    assert engine.gatekeeper.results_scope(engine.upstream, asked.credential, team) == own
