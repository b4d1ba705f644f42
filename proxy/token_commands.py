"""``hotplate tokens``: own tokens are made, shown and revoked by the running proxy, where one runs, so that it acts at
once; else in the data folder itself."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.core.entitlement import parse_rule, token_id
from proxy.core.errors import HotplateError
from proxy.core.own_tokens import describe_token
from proxy.data_dir import load_secret, make_data_dir
from proxy.engine.tokens import OwnTokens
from proxy.settings import Settings, SettingsError, load_settings
from storage.opening import open_storage
from storage.records import JsonObject

TIMEOUT_S = 10.0

tokens_app = typer.Typer(help="Tokens of Hotplate's own, which clients carry in gateway mode.", no_args_is_help=True)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file, as for serve.")]
NameArgument = Annotated[str, typer.Argument(help="The token's name.")]


@tokens_app.command()
def add(
    name: NameArgument,
    config: ConfigOption = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Whose results it gets: account, token, shared or group:NAME; default: as policies say."),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(help="Glob over owner/name that it may run; may be given again. Default: all.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Most creates a minute, e.g. 60/min.")] = None,
    spend: Annotated[float | None, typer.Option(help="Most that its runs may cost in a day (UTC).")] = None,
) -> None:
    """Make a token and print it, once: nobody can read it again."""
    wanted: JsonObject = {"name": name, "scope": scope, "rate_per_min": _rate(rate), "spend_per_day": spend}
    if models:
        wanted["models"] = list(models)
    if scope is not None:
        _checked_scope(scope)
    settings = load_settings(config)

    async def offline(own: OwnTokens) -> JsonObject:
        text, token = await own.add(
            name,
            rule=parse_rule(scope) if scope is not None else None,
            models=tuple(models or ("*",)),
            rate_per_min=wanted["rate_per_min"],
            spend_per_day=spend,
        )
        return {**describe_token(token), "token": text}

    made = _carry_out(settings, "POST", "", wanted, offline)
    errors = Console(stderr=True)
    if spend is not None and not any(one.price_per_second or one.price_per_output for one in settings.policy):
        errors.print(Text("no policy has a price, so nothing counts as spent and --spend ends nothing", style="yellow"))
    errors.print(Text(f"{made['name']} is {made['id']}; keep the token, it is shown this once:"))
    print(made["token"])


@tokens_app.command("list")
def list_tokens(config: ConfigOption = None) -> None:
    """Show every token that is good: its id and what it may do."""

    async def offline(own: OwnTokens) -> JsonObject:
        return {"tokens": [describe_token(token) for token in own.all()]}

    found = _carry_out(load_settings(config), "GET", "", None, offline)["tokens"]
    table = Table(box=None)
    for column in ("name", "id", "scope", "models", "rate", "spend a day", "since"):
        # An id that is cut short is of no use to whoever copies it into the settings.
        table.add_column(column, min_width=20 if column == "id" else None)
    for one in found:
        since = datetime.fromtimestamp(one["created_at"], UTC).strftime("%Y-%m-%d")
        table.add_row(
            Text(one["name"]),
            one["id"],
            one["scope"] or "by policy",
            Text(" ".join(one["models"])),
            f"{one['rate_per_min']}/min" if one["rate_per_min"] is not None else "",
            f"{one['spend_per_day']:g}" if one["spend_per_day"] is not None else "",
            "settings" if one["is_static"] else since,
        )
    Console().print(table)


@tokens_app.command()
def revoke(name: NameArgument, config: ConfigOption = None) -> None:
    """End a token's life, by its name or id."""

    async def offline(own: OwnTokens) -> JsonObject:
        token = own.take(name)
        await own.erase(token)
        return describe_token(token)

    gone = _carry_out(load_settings(config), "DELETE", "/" + quote(name, safe=""), None, offline)
    Console(stderr=True).print(Text(f"{gone['name']} ({gone['id']}) is revoked"))


@tokens_app.command("id")
def show_id(config: ConfigOption = None) -> None:
    """Print the id under which Hotplate shows a token, which is read from REPLICATE_API_TOKEN or standard input."""
    settings = load_settings(config)
    text = os.environ.get("REPLICATE_API_TOKEN") or sys.stdin.readline().strip()
    if not text:
        raise SettingsError("tokens id: give the token in REPLICATE_API_TOKEN or on standard input")
    make_data_dir(settings.data_dir)
    print(token_id(load_secret(settings.data_dir), text))


def _carry_out(
    settings: Settings,
    method: str,
    path: str,
    document: JsonObject | None,
    offline: Callable[[OwnTokens], Awaitable[JsonObject]],
) -> JsonObject:
    """Ask the running proxy, or do it in the data folder where none runs.

    Raises:
        SettingsError: it cannot be done; says why.
        StorageError: the data folder cannot be used.
    """
    headers = {}
    if settings.admin.token is not None:
        headers["Authorization"] = f"Bearer {settings.admin.token.get_secret_value()}"
    host = f"[{settings.admin.host}]" if ":" in settings.admin.host else settings.admin.host
    url = f"http://{host}:{settings.admin.port}/_hotplate/tokens{path}"
    try:
        answer = httpx.request(method, url, json=document, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return asyncio.run(_in_folder(settings, offline))
    except httpx.HTTPError as error:
        raise SettingsError(f"tokens: the proxy at {url} does not answer: {type(error).__name__}") from error
    try:
        said = answer.json()
    except ValueError as error:
        raise SettingsError(f"tokens: something else answers at {url}: correct admin.port") from error
    if answer.is_error or not isinstance(said, dict):
        raise SettingsError(f"tokens: {said.get('detail') if isinstance(said, dict) else 'no answer of a proxy'}")
    return said


async def _in_folder(settings: Settings, work: Callable[[OwnTokens], Awaitable[JsonObject]]) -> JsonObject:
    make_data_dir(settings.data_dir)
    secrets = load_secret(settings.data_dir)
    storage = await open_storage(settings.data_dir, settings.storage)
    try:
        static = [token.get_secret_value() for token in settings.auth.tokens]
        own = OwnTokens(secrets, static, storage.notes, time.time)
        await own.load()
        return await work(own)
    except HotplateError as error:
        raise SettingsError(f"tokens: {error.detail}") from error
    finally:
        await storage.aclose()


def _rate(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,6})(/min)?", text)
    if found is None:
        raise SettingsError(f"tokens add: --rate {text!r} must be a number of creates a minute, such as 60/min")
    return int(found[1])


def _checked_scope(text: str) -> None:
    try:
        parse_rule(text)
    except ValueError as error:
        raise SettingsError(f"tokens add: --scope {error}") from error
