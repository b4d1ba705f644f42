"""Writes ``docs/compatibility.md`` from what the last runs of the suite came to.

``python -m tests.conformance.report`` after ``pytest -m slow tests/conformance``. It refuses while an outcome is
missing, so that the page never says less than the suite asks.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.conformance.bench import Mode
from tests.conformance.cases import CASES, Case
from tests.conformance.clients import CLIENTS, Client
from tests.conformance.cog_cases import COG_CASES, SERVERS
from tests.conformance.environments import ROOT
from tests.conformance.suite import OUTCOMES

PAGE = ROOT / "docs" / "compatibility.md"
COMMAND = "python -m tests.conformance.report"

MODES: tuple[Mode, ...] = ("direct", "miss", "hit")
_SIGNS = {"passes": "✓", "fails": "✗", "cannot": "-"}
_NOT_ASKED = "·"
FEW = 6
"""More titles than this are counted instead of named; the table names them."""

Outcomes = dict[str, dict[str, dict[Mode, dict[str, str]]]]

_HEAD = f"""# Compatibility

What real, unmodified clients find when they talk to Hotplate instead of the API. This page is generated
(`{COMMAND}`) from the conformance suite (`tests/conformance`), which installs each client from a lock and lets it do
every case up to three times: straight at the API's double (`direct`), through Hotplate for the first time (`miss`), and
through Hotplate with the same input once more (`hit`). Answers are compared with each other, and the double's counters
prove how many runs were made: none for a hit.

Each cell shows `direct miss hit`: ✓ as it should be, ✗ not so, - the client has no way to do it, · not asked in that
mode.
"""


class Incomplete(Exception):
    """Outcomes are missing; the text names the first of them."""


def render(outcomes: Outcomes) -> str:
    """The whole page.

    Raises:
        Incomplete: the suite has cases without an outcome.
    """
    parts = [_HEAD, "## Clients\n", *_client_lines(), "\n## Against the API\n", *_table(CLIENTS, CASES, outcomes)]
    parts += ["\n## Against Cog servers\n", _COG_HEAD, *_cog_table(outcomes)]
    parts += ["\n## What clients cannot do\n", *_reasons(outcomes)]
    failures = _failures(outcomes)
    if failures:
        parts += ["\n## What does not work yet\n", *failures]
    return "\n".join(parts) + "\n"


_BY_NAME = """{named} take no address. They reach Hotplate by name resolution: `api.replicate.com` leads to Hotplate (an
entry in their machine's hosts file, or a DNS of your own), which listens on port 443 and is set to
`public.base_url = "https://api.replicate.com"`, with a certificate for that name (`tls.names`, see [TLS](tls.md))."""

_COG_HEAD = """The same cases, as far as they apply, through Hotplate in front of real Cog servers of both dialects.
There is no `direct` here, since Cog has another API; each cell shows `miss hit`. The client is Python `replicate` 1.x.
"""


def _client_lines() -> list[str]:
    lines = ["| client | language | package | version |", "| --- | --- | --- | --- |"]
    lines += [f"| {each.name} | {each.language} | `{each.package}` | {each.version} |" for each in CLIENTS]
    named = ", ".join(each.name for each in CLIENTS if each.is_aimed_by_name)
    return [*lines, "", _BY_NAME.format(named=named)]


def _table(clients: tuple[Client, ...], cases: dict[str, Case], outcomes: Outcomes) -> list[str]:
    names = [client.name for client in clients]
    lines = ["| a client can … | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for case in cases.values():
        cells = [_cell(outcomes, name, case, MODES) for name in names]
        lines.append(f"| {case.title} | " + " | ".join(cells) + " |")
    return lines


def _cog_table(outcomes: Outcomes) -> list[str]:
    names = [f"cog {version}" for version in SERVERS.values()]
    lines = ["| a client can … | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for case in COG_CASES.values():
        cells = [_cell(outcomes, server, case, ("miss", "hit")) for server in SERVERS]
        lines.append(f"| {case.title} | " + " | ".join(cells) + " |")
    return lines


def _cell(outcomes: Outcomes, name: str, case: Case, modes: tuple[Mode, ...]) -> str:
    signs = []
    for mode in modes:
        if mode not in case.runs:
            signs.append(_NOT_ASKED)
            continue
        try:
            signs.append(_SIGNS[outcomes[name][case.name][mode]["outcome"]])
        except KeyError:
            raise Incomplete(f"{name}: {case.name} ({mode}) has no outcome") from None
    return "-" if set(signs) <= {"-", _NOT_ASKED} else " ".join(signs)


def _reasons(outcomes: Outcomes) -> list[str]:
    """What each client cannot do, by its driver's reasons."""
    lines = []
    for client in CLIENTS:
        by_reason: dict[str, list[str]] = {}
        for case in CASES.values():
            for outcome in outcomes[client.name][case.name].values():
                if outcome["outcome"] == "cannot":
                    titles = by_reason.setdefault(outcome["reason"], [])
                    titles += [case.title] if case.title not in titles else []
        for reason, titles in by_reason.items():
            which = "; ".join(titles) if len(titles) <= FEW else f"{len(titles)} cases"
            lines.append(f"- **{client.name}**: {reason} ({which}).")
    return lines


def _failures(outcomes: Outcomes) -> list[str]:
    cases: list[tuple[str, Case]] = [(each.name, case) for each in CLIENTS for case in CASES.values()]
    cases += [(server, case) for server in SERVERS for case in COG_CASES.values()]
    lines = []
    for name, case in cases:
        failed = [mode for mode, each in outcomes[name][case.name].items() if each["outcome"] == "fails"]
        if failed:
            lines.append(f"- **{name}**, {case.title}: {', '.join(mode for mode in MODES if mode in failed)}")
    return lines


def main() -> None:
    outcomes: Any = json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.is_file() else {}
    try:
        PAGE.write_text(render(outcomes), encoding="utf-8")
    except Incomplete as error:
        sys.exit(f"the page is not written: {error}; run `pytest -m slow tests/conformance` first")


if __name__ == "__main__":
    main()
