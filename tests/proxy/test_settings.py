from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from proxy.settings import Settings, SettingsError, is_loopback, load_settings

OWN_TOKEN = "a-token-of-16-chars"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside: an empty folder and no variables of ours."""
    for name in list(os.environ):
        if name.upper().startswith("HOTPLATE"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def loaded(toml: str = "", overrides: dict[str, Any] | None = None) -> Settings:
    path = Path("settings.toml")
    path.write_text(toml)
    return load_settings(path, overrides)


def complaint(toml: str = "", overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(toml, overrides)
    return str(caught.value)


# -- where they come from ------------------------------------------------------------------------------


def test_without_any_setting_there_are_defaults_that_are_safe() -> None:
    settings = load_settings()
    assert is_loopback(settings.public.host)
    assert is_loopback(settings.admin.host)
    assert settings.cache.enabled
    assert settings.tls.mode == "off"
    assert [upstream.kind for upstream in settings.upstream] == ["replicate"]
    assert settings.scheme == "http"


def test_file_is_read() -> None:
    settings = loaded(
        """
        [public]
        port = 9000
        [cache]
        data_url_max_bytes = "2MiB"
        [[upstream]]
        kind = "local"
        name = "demo"
        """
    )
    assert settings.public.port == 9000
    assert settings.cache.data_url_max_bytes == 2 * 1024**2
    assert settings.upstream[0].name == "demo"


def test_file_of_the_current_folder_is_found() -> None:
    Path("hotplate.toml").write_text("public.port = 9001")
    assert load_settings().public.port == 9001


def test_file_named_in_the_environment_wins_over_that_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("hotplate.toml").write_text("public.port = 9001")
    Path("other.toml").write_text("public.port = 9002")
    monkeypatch.setenv("HOTPLATE_CONFIG", "other.toml")
    assert load_settings().public.port == 9002
    assert loaded("public.port = 9003").public.port == 9003


def test_environment_wins_over_the_file_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTPLATE_PUBLIC__PORT", "9004")
    monkeypatch.setenv("HOTPLATE_AUTH__TOKENS", json.dumps([OWN_TOKEN]))
    monkeypatch.setenv("HOTPLATE_CACHE__ENABLED", "false")
    monkeypatch.setenv("HOTPLATE_DATA_DIR", "/somewhere")
    settings = loaded('public.port = 9003\npublic.host = "127.0.0.2"')
    assert settings.public.port == 9004
    assert settings.public.host == "127.0.0.2"
    assert [token.get_secret_value() for token in settings.auth.tokens] == [OWN_TOKEN]
    assert not settings.cache.enabled
    assert settings.data_dir == Path("/somewhere")


def test_command_line_wins_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTPLATE_PUBLIC__PORT", "9004")
    monkeypatch.setenv("HOTPLATE_AUTH__TOKENS", json.dumps([OWN_TOKEN]))
    settings = loaded('public.host = "127.0.0.2"', {"public": {"port": 9005}})
    assert settings.public.port == 9005
    assert settings.public.host == "127.0.0.2"
    assert settings.auth.tokens[0].get_secret_value() == OWN_TOKEN


def test_command_line_may_name_the_upstreams() -> None:
    settings = loaded("", {"upstream": [{"kind": "cog", "name": "mine", "urls": ["http://127.0.0.1:5000"]}]})
    assert [upstream.kind for upstream in settings.upstream] == ["cog"]


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.public.port = 1  # type: ignore[misc]


def test_secrets_do_not_show_themselves() -> None:
    settings = loaded(f'auth.tokens = ["{OWN_TOKEN}"]\nadmin.token = "an-admin-token-of-ours"')
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert OWN_TOKEN not in shown
        assert "an-admin-token-of-ours" not in shown


# -- wrong ones ----------------------------------------------------------------------------------------

WRONG = {
    "public.port": 'public.port = "many"',
    "public.host": "public.host = 5",
    "public.base_url": 'public.base_url = "images.example.com"',
    "admin.port": "admin.port = 65536",
    "tls": 'tls.mode = "files"',
    "tls.mode": 'tls.mode = "on"',
    "auth.tokens": 'auth.tokens = ["short"]',
    "auth.accept_for_s": "auth.accept_for_s = 0",
    "cache.output_urls": 'cache.output_urls = "links"',
    "cache.output_max_bytes": 'cache.output_max_bytes = "huge"',
    "limits.max_waiters": "limits.max_waiters = 0",
    "limits": 'limits.max_arriving_bytes = "1MB"',
    "limits.max_waiters_per_run": "limits.max_waiters_per_run = 0",
    "limits.max_runs_per_caller": "limits.max_runs_per_caller = -1",
    "limits.new_runs_per_minute_per_caller": "limits.new_runs_per_minute_per_caller = 0.5",
    "limits.max_connections": "limits.max_connections = 0",
    "limits.head_timeout_s": "limits.head_timeout_s = 0",
    "limits.body_timeout_s": "limits.body_timeout_s = 0",
    "limits.send_timeout_s": "limits.send_timeout_s = -1",
    "limits.drain_timeout_s": "limits.drain_timeout_s = -1",
    "storage.durability": 'storage.durability = "never"',
    "log.level": 'log.level = "loud"',
    "public.prot": "public.prot = 1",
    "nonsense": "nonsense = 1",
    "upstream": "upstream = []",
    "upstream.0": '[[upstream]]\nkind = "magic"\nname = "a"',
    "upstream.0.replicate.name": '[[upstream]]\nkind = "replicate"\nname = "Not A Name"',
    "upstream.0.cog.urls": '[[upstream]]\nkind = "cog"\nname = "a"',
    "upstream.0.local.max_copies": '[[upstream]]\nkind = "local"\nname = "a"\nmax_copies = 0',
    "upstream.0.replicate.models": '[[upstream]]\nkind = "replicate"\nname = "a"\nmodels = []',
}


@pytest.mark.parametrize("place", WRONG)
def test_wrong_setting_is_one_line_that_begins_with_its_place(place: str) -> None:
    said = complaint(WRONG[place])
    assert said.startswith(f"{place}: ")
    assert "\n" not in said
    assert len(said) > len(place) + 8


def test_two_upstreams_of_one_name_are_refused_because_the_name_is_in_every_key() -> None:
    said = complaint('[[upstream]]\nkind = "replicate"\nname = "a"\n[[upstream]]\nkind = "local"\nname = "a"')
    assert said.startswith("upstream: ")
    assert "same name" in said


@pytest.mark.parametrize(("text", "said"), [("public = [", "not a TOML file"), ("\x00", "not a TOML file")])
def test_file_that_is_not_toml_is_one_line(text: str, said: str) -> None:
    line = complaint(text)
    assert line.startswith("settings.toml: ")
    assert said in line
    assert "\n" not in line


def test_file_that_is_not_there_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"^missing\.toml: cannot be read: "):
        load_settings(Path("missing.toml"))


def test_file_that_is_not_utf8_is_one_line() -> None:
    Path("bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"^bad\.toml: not a TOML file"):
        load_settings(Path("bad.toml"))


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("HOTPLATE_PUBLIC__PORT", "many", "public.port"),
        ("HOTPLATE_AUTH__TOKENS", "not json", "auth"),
        ("HOTPLATE_UPSTREAM", "[{", "upstream"),
        ("HOTPLATE_LOG__LEVEL", "loud", "log.level"),
        ("HOTPLATE_PUBLIC__PROT", "1", "public.prot"),
    ],
)
def test_wrong_variable_is_one_line_that_names_the_field(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, place: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_token_is_not_repeated_in_the_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hush-hush" not in complaint('auth.tokens = ["hush-hush"]')
    assert "hush-hush" not in complaint('admin.token = ["hush-hush"]')
    monkeypatch.setenv("HOTPLATE_AUTH__TOKENS", "hush-hush")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hush-hush" not in str(caught.value)


def test_wrong_value_on_the_command_line_is_one_line() -> None:
    said = complaint("", {"public": {"port": 70_000}})
    assert said.startswith("public.port: ")


# -- who can reach it ----------------------------------------------------------------------------------

OPEN = '[[upstream]]\nkind = "local"\nname = "demo"\n'
ACCOUNTS = '[[upstream]]\nkind = "replicate"\nname = "replicate"\n'


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "images.example.com", ""])
def test_model_without_accounts_is_not_opened_to_other_machines_without_tokens(host: str) -> None:
    said = complaint(f'public.host = "{host}"\n{OPEN}')
    assert said.startswith("auth.tokens: must be set")
    assert "public.host" in said
    assert loaded(f'auth.tokens = ["{OWN_TOKEN}"]\npublic.host = "{host}"\n{OPEN}').public.host == host


def test_one_open_model_among_others_is_enough_to_need_tokens() -> None:
    assert "demo" in complaint(f'public.host = "0.0.0.0"\n{ACCOUNTS}{OPEN}')


def test_public_name_in_front_of_loopback_needs_tokens_too() -> None:
    said = complaint(f'public.base_url = "https://images.example.com"\n{OPEN}')
    assert said.startswith("auth.tokens: must be set")
    assert "public.base_url" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_model_without_accounts_is_open_on_loopback(host: str) -> None:
    assert loaded(f'public.host = "{host}"\n{OPEN}').public.host == host


def test_upstream_with_accounts_needs_no_tokens_of_ours() -> None:
    assert loaded(f'public.host = "0.0.0.0"\n{ACCOUNTS}').public.host == "0.0.0.0"


def test_operators_listener_beyond_loopback_needs_its_token() -> None:
    assert complaint('admin.host = "0.0.0.0"').startswith("admin.token: must be set")
    assert loaded('admin.host = "0.0.0.0"\nadmin.token = "something-long-enough"').admin.host == "0.0.0.0"


def test_command_line_cannot_open_what_the_file_may_not() -> None:
    assert complaint(OPEN, {"public": {"host": "0.0.0.0"}}).startswith("auth.tokens: ")


@pytest.mark.parametrize(
    ("host", "is_inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("localhost.localdomain", False),
        ("", False),
        ("127.0.0.1.nip.io", False),
    ],
)
def test_loopback_is_known_for_certain_or_not_at_all(host: str, is_inside: bool) -> None:
    assert is_loopback(host) is is_inside


# -- values that are put in form -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        "https://images.example.com",
        "https://images.example.com/",
        "https://images.example.com/v1",
        "https://images.example.com/v1/",
    ],
)
def test_base_url_is_kept_without_its_end(base_url: str) -> None:
    settings = loaded(f'public.base_url = "{base_url}"')
    assert settings.public.base_url == "https://images.example.com"


def test_every_field_is_described() -> None:
    def walk(model: type[BaseModel], place: str) -> list[str]:
        missing = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                missing += walk(inner, f"{place}{name}.")
            elif not field.description:
                missing.append(f"{place}{name}")
        return missing

    assert walk(Settings, "") == []


@pytest.mark.parametrize("token", ["", "short", "with spaces in it and long", "ünïcödé-is-no-header-text"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_token_that_protects_nothing_is_refused(token: str, host: str) -> None:
    for overrides in ({"admin": {"token": token, "host": host}}, {"auth": {"tokens": [token]}}):
        with pytest.raises(SettingsError, match="at least 16 characters"):
            load_settings(overrides=overrides)


@pytest.mark.parametrize(
    "upstream",
    [
        {"kind": "cog", "urls": ["notaurl"]},
        {"kind": "cog", "urls": ["http://x"], "input_origins": ["http://x/path"]},
        {"kind": "replicate", "base_url": "ftp://x"},
        {"kind": "replicate", "output_origins": ["x"]},
    ],
)
def test_address_that_is_none_is_one_line(upstream: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(overrides={"upstream": [{"name": "one", **upstream}]})
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("upstream.0.")


def test_data_dir_must_name_a_folder() -> None:
    with pytest.raises(SettingsError, match="data_dir"):
        load_settings(overrides={"data_dir": ""})


# -- who may use it ------------------------------------------------------------------------------------

HELD = '[[upstream]]\nname = "api"\nkind = "replicate"\ntoken = "r8_held"\n'
BARE = '[[upstream]]\nname = "api"\nkind = "replicate"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'auth.mode = "gateway"\n{BARE}', "upstream.api.token: must be set"),
        (f'auth.mode = "open"\n{BARE}', "upstream.api.token: must be set"),
        (HELD, "upstream.api.token: has no use"),
        (f'auth.mode = "open"\npublic.host = "0.0.0.0"\n{HELD}', "auth.open_to_all: must be true"),
        (f'auth.mode = "open"\npublic.base_url = "https://images.example.com"\n{HELD}', "auth.open_to_all"),
        ('auth.mode = "free"', "auth.mode"),
        ('auth.groups.crew = ["acme"]', "auth.groups"),
        ('auth.groups."The Crew" = ["account:acme"]', "auth.groups"),
        ('[[policy]]\nscope = "group:crew"', "policy.0.scope: auth.groups names no group"),
        ("auth.auth_stale_if_error_s = -1", "auth.auth_stale_if_error_s"),
    ],
)
def test_wrong_way_to_let_people_in_is_one_line(text: str, says: str) -> None:
    said = complaint(text)
    assert said.startswith(says), said
    assert "r8_held" not in said


@pytest.mark.parametrize("price", ["price_per_second", "price_per_output"])
def test_price_that_nobody_would_look_at_is_one_line(price: str) -> None:
    """A profile's own price was taken and then ignored, and with it what a token may spend in a day."""
    assert loaded(f'[[policy]]\n{price} = 0.5\n[[policy]]\nname = "fresh"').policy
    said = complaint(f'[[policy]]\nname = "fresh"\n{price} = 0.5')
    assert said == f"policy.0.{price}: must stand in a policy without a name"


def test_right_ways_to_let_people_in() -> None:
    assert loaded(f'auth.mode = "gateway"\npublic.host = "0.0.0.0"\n{HELD}').auth.mode == "gateway"
    assert loaded(f'auth.mode = "open"\n{HELD}').auth.mode == "open"
    everywhere = loaded(f'auth.mode = "open"\nauth.open_to_all = true\npublic.host = "0.0.0.0"\n{HELD}')
    assert everywhere.auth.open_to_all
    assert "r8_held" not in repr(everywhere)
    grouped = loaded('auth.groups.crew = ["account:acme"]\n[[policy]]\nscope = "group:crew"')
    assert grouped.auth.groups == {"crew": ("account:acme",)}
