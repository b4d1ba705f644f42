"""``hotplate observe``: what the cache would have made of requests that were only passed on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.commands.admin import ConfigOption, JsonOption, open_listener

_ROWS = (
    ("would-hit", "hits"),
    ("would-hit-doubtful", "doubtful"),
    ("would-share", "shared"),
    ("would-miss", "misses"),
    ("would-bypass", "bypassed"),
)


def observe(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what the cache would have made of requests whose policy has mode = "observe", since the proxy started."""
    told = open_listener(config, "observe").ask("observed")
    if as_json:
        print(json.dumps(told, indent=2))
        return
    console = Console()
    since = datetime.fromtimestamp(told["since"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if not told["requests"]:
        console.print(Text(f'Nothing was observed since {since}: give a policy mode = "observe".'))
        return
    table = Table("model", "requests", *(noun for _, noun in _ROWS), "seconds saved", "money saved")
    for name, tally in told["models"].items():
        table.add_row(Text(name), *_cells(tally))
    table.add_section()
    table.add_row("all", *_cells(told))
    console.print(Text(f"What the cache would have made of the requests since {since}:"))
    console.print(table)
    saved, doubts = told["would_save"], told["doubts"]
    console.print(
        Text(f"Of {saved['runs']} runs that would not have been made, the ends of {saved['ends_seen']} were seen.")
    )
    if any(doubts.values()):
        doubtful = saved["of_these_doubtful"]
        console.print(Text(f"Doubtful are {doubtful['seconds']:.1f} s, {doubtful['money']:.4f} of it:"))
        for doubt, reason in _DOUBTS.items():
            if doubts[doubt]:
                console.print(Text(f"  {doubts[doubt]} {doubt}: {reason}"))


_DOUBTS = {
    "seedless": "no seed is given, so the caller may want another answer each time (see seedless)",
    "hidden-version": "the model does not tell its version, so it may have changed (see ttl_s)",
    "url-input": "the input names a file by its URL, and what that names may have changed",
}


def _cells(tally: dict[str, Any]) -> list[str]:
    saved = tally["would_save"]
    counts = [str(tally["verdicts"][verdict]) for verdict, _ in _ROWS]
    return [str(tally["requests"]), *counts, f"{saved['seconds']:.1f}", f"{saved['money']:.4f}"]
