"""``hotplate bypass``, ``reload`` and ``purge``."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from proxy.commands.admin import ConfigOption, JsonOption, Refused, open_listener
from proxy.settings import SettingsError

PURGE_TIMEOUT_S = 3600.0
"""A purge by model looks at every record, which takes about a minute for a million, and removing one takes longer."""


class Switch(StrEnum):
    """What ``hotplate bypass`` can be told."""

    on = "on"
    off = "off"
    status = "status"


def bypass(switch: Switch, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The kill switch: while it is on, every create is a run of its own and nothing is kept. A restart keeps it."""
    listener = open_listener(config, "bypass")
    if switch is Switch.status:
        state = listener.ask("bypass")
    else:
        state = listener.ask("bypass", post={"on": switch is Switch.on})
    if as_json:
        print(json.dumps(state, indent=2))
    elif state["on"]:
        print(f"The cache is bypassed, since {_time(state['since'])}; hotplate bypass off ends that.")
    else:
        print("The cache is used." if state["cache_enabled"] else "The cache is off: cache.enabled is false.")
    if state.get("is_written") is False:
        Console(stderr=True).print(Text("It could not be written down: a restart forgets it.", style="red"))
        sys.exit(1)


def reload(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Have the running proxy take over the policies of its configuration, as SIGHUP does; all of them or none."""
    try:
        listener = open_listener(config, "reload")  # a file that is wrong for the proxy is wrong here, too
    except SettingsError as error:
        _not_reloaded(str(error))
    try:
        done = listener.ask("reload", post={})
    except Refused as error:
        if error.status != 400:
            raise
        _not_reloaded(error.detail)
    if as_json:
        print(json.dumps(done, indent=2))
        return
    noun = "policy holds" if done["policies"] == 1 else "policies hold"
    print(f"{done['policies']} {noun} now, {'changed' if done['has_changed'] else 'the same as before'}.")
    if done["needs_restart"]:
        print(f"These settings differ, too, and take a restart: {', '.join(done['needs_restart'])}.")


def _not_reloaded(reason: str) -> NoReturn:
    message = f"hotplate: reload: {reason}; the policies are what they were"
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
    sys.exit(1)


def purge(
    config: ConfigOption = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Id of a prediction: the result that it shows.")] = None,
    keys: Annotated[list[str] | None, typer.Option("--key", help="Prediction key, 64 hex digits.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A name that Hotplate-Tags gave.")] = None,
    namespaces: Annotated[
        list[str] | None, typer.Option("--namespace", help="A name that Hotplate-Namespace gave.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Glob over owner/name, or deployments/owner/name.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every result; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take stored results away: those of ids, keys, tags, namespaces or models. Each option may be given many times."""
    given: dict[str, Any] = {"id": ids, "key": keys, "tag": tags, "model": models}
    if namespaces:
        given["tag"] = [*(tags or ()), *(f"namespace:{name}" for name in namespaces)]
    chosen: dict[str, Any] = {kind: values for kind, values in given.items() if values}
    if everything:
        chosen["all"] = True
    if len(chosen) != 1:
        raise SettingsError("purge: say one of --id, --key, --tag or --namespace, --model, --all")
    if everything and not yes:
        typer.confirm("Take every stored result away?", abort=True)
    try:
        done = open_listener(config, "purge").ask("purge", post=chosen, timeout_s=PURGE_TIMEOUT_S)
    except Refused as error:
        if error.status < 500:
            raise
        Console(stderr=True).print(Text(f"hotplate: purge: {error.detail}", style="red"), soft_wrap=True)
        sys.exit(1)
    if as_json:
        print(json.dumps(done, indent=2))
        return
    removed = done["removed"]
    print(f"{removed} {'result' if removed == 1 else 'results'} removed.")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
