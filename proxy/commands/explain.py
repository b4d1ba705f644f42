"""``hotplate explain``: a request, two of them, or a past prediction."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.commands.admin import ConfigOption, JsonOption, caller_headers, open_listener
from proxy.settings import SettingsError

_ALLOWED = frozenset({"cache-control", "hotplate-namespace", "hotplate-pool", "hotplate-key", "hotplate-tags"})


def explain(
    request: Annotated[
        Path | None, typer.Argument(help="JSON file with a create request's body; - for standard input.")
    ] = None,
    config: ConfigOption = None,
    headers: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", help="Header of the request, e.g. 'Cache-Control: no-cache'; many times."),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Profile that the base URL names, as in /@NAME/v1.")] = None,
    token: Annotated[str | None, typer.Option(help="The caller's token; default: REPLICATE_API_TOKEN.")] = None,
    diff: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Say why two requests have two keys.")
    ] = None,
    prediction_id: Annotated[str | None, typer.Option("--id", help="Say how a past prediction was answered.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how a create request's key comes about and whether it would hit; asks the running proxy, runs no model."""
    if sum(one is not None for one in (request, diff, prediction_id)) != 1:
        raise SettingsError("explain: say one of a request's file, --diff A B, --id ID")
    sent = {**caller_headers(token), **_headers(headers or [], profile)}
    if prediction_id is not None:
        if not prediction_id.isalnum():
            raise SettingsError("explain: --id: that is no id of a prediction")
        document = open_listener(config, "explain").ask(f"explain/{prediction_id}")
        show = _show_prediction
    elif diff is not None:
        content = b'{"a": %s, "b": %s}' % (_read(diff[0]), _read(diff[1]))
        document = open_listener(config, "explain").ask("explain/diff", content=content, headers=sent)
        show = _show_differences
    else:
        assert request is not None
        content = _read(request)
        document = open_listener(config, "explain").ask("explain", content=content, headers=sent)
        show = _show_request
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        show(Console(), document)


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise SettingsError(f"explain: {file}: {error.strerror}") from error


def _headers(given: list[str], profile: str | None) -> dict[str, str]:
    """Headers of the request that is explained: those that decide about the cache, and no others."""
    found: dict[str, str] = {}
    for line in given:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or name not in _ALLOWED or not value.isprintable() or not value.isascii():
            raise SettingsError(f"explain: --header: it must be one of {', '.join(sorted(_ALLOWED))}, and a value")
        found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
    if profile is not None:
        if not profile.isascii() or not profile.isprintable():
            raise SettingsError("explain: --profile: that is no name of a profile")
        found["x-explain-profile"] = profile
    return found


def _show_request(console: Console, told: dict[str, Any]) -> None:
    policy = told["policy"]
    console.print(Text(f"would be: {told['would']}", style="bold"))
    summary = _grid()
    for name, value in (
        ("plan", f"{told['plan']} ({told['why']})"),
        ("key", told["key"] or f"none; with the cache: {told['key_if_used'] or 'none either'}"),
        ("policy", policy["because"]),
        ("", f"mode {policy['mode']}, fresh for {_span(policy['fresh_for_s'])}, scope {policy['scope']}"),
        ("seed", told["seed"]),
        ("upstream", f"{told['upstream']} ({told['kind']})"),
        ("model", told["model"] if told["deployment"] is None else f"deployment {told['deployment']}"),
        ("version", f"{told['version']}{'' if told['is_pinned'] else ' (may change without notice)'}"),
        ("schema", "known: the input is normalised by it" if told["schema_known"] else "not known: as it was given"),
        ("request", _value(told["controls"]) if told["controls"] else "no wishes of its own"),
    ):
        summary.add_row(name, Text(str(value)))
    console.print(summary)
    console.print(_ingredients(told))
    if told["changes"]:
        table = Table("field", "given", "in the key", "why", title="What was normalised", title_justify="left")
        for one in told["changes"]:
            table.add_row(Text(one["name"]), _value(one.get("given")), _value(one.get("normalised")), Text(one["what"]))
        console.print(table)
    for number, one in enumerate(told["answers"], 1):
        name = "stored answer" if len(told["answers"]) == 1 else f"answer {number} of {len(told['answers'])}"
        age = ""
        if one["state"] == "stored":
            age = f", {_span(one['age_s'])} old, {one['grade']}"
        console.print(Text(f"{name}: {one['state']}{age}"))
    if not told["credential_accepted_now"]:
        console.print(Text("The upstream has not accepted this credential lately: a hit asks it first."))


def _ingredients(told: dict[str, Any]) -> Table:
    table = Table("ingredient", "value", "from", title="What the key is made of", title_justify="left")
    for one in told["ingredients"]:
        if one["value"]:
            table.add_row(one["name"], Text(one["value"]), one["from"])
    table.add_row("input", _value(told["keyed"]), "the request, normalised")
    for file in told["files"]:
        table.add_row(f"file {file['place']}", file["digest"], "its bytes")
    return table


def _show_differences(console: Console, told: dict[str, Any]) -> None:
    if told["same_key"]:
        console.print(Text(f"same key: {told['keys'][0]}", style="bold"))
        return
    for name, key, plan in zip("AB", told["keys"], told["plans"], strict=True):
        console.print(Text(f"{name}: {key or 'no key'} ({plan})"))
    if not told["differences"]:
        console.print("Nothing in them differs; without a key neither is answered from the cache.")
        return
    table = Table("what", "A", "B")
    for one in told["differences"]:
        table.add_row(Text(one["what"]), _value(one["a"]), _value(one["b"]))
    console.print(table)


def _show_prediction(console: Console, told: dict[str, Any]) -> None:
    console.print(Text(f"answered: {told['answered']}", style="bold"))
    grid = _grid()
    for name, value in told.items():
        if name == "answered" or value in (None, [], ""):
            continue
        grid.add_row(name, _time(value) if name.endswith("_at") else _value(value))
    console.print(grid)


def _grid() -> Table:
    return Table(show_header=False, box=None)


def _value(value: Any) -> Text:
    return Text("" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _time(at: float) -> Text:
    return Text(datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "ever"
    for unit, length_s in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} seconds"
