"""``make bench``: a cached hit against a bare application with the same reply, in one interleaved run.

Both are one uvicorn worker with the same flags. Hotplate checks the credential, applies the key rules, counts and
writes its log. Each round measures both, in random order; what is told is the ratio of a round, and of those the
median and the range. One hot key: the working set is one record, in memory.

A second part puts hundreds of long runs in flight and measures hits meanwhile, see ``inflight``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench.inflight import InFlight, quiet_ratio, run_in_flight
from loadtests.bench.wrk import find_wrk, measure, write_script
from tests.flows.harness import README_MODEL, ROOT, SMALL, local_config, running_proxy

CONCURRENCIES = (1, 16, 64)
CREATE = f"/v1/models/{README_MODEL}/predictions"
IN_FLIGHT_RUNS, IN_FLIGHT_S = 512, 60.0
IN_FLIGHT_MUST, IN_FLIGHT_GOAL = 3.0, 1.5
"""Bounds of hits' p99 while the runs are in flight, as multiples of the idle one."""

RESULTS = ROOT / "loadtests" / "baselines" / "bench.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: ratios over the rounds."""

    name: str
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


@contextlib.contextmanager
def bare_application(reply: Path, port_file: Path) -> Iterator[str]:
    """The baseline on a free port."""
    code = (
        "import socket, uvicorn, pathlib\n"
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(2048)\n"
        f"pathlib.Path({str(port_file)!r}).write_text(str(s.getsockname()[1]))\n"
        "config = uvicorn.Config('loadtests.bench.baseline:app', loop='uvloop', http='httptools', ws='none',\n"
        "    lifespan='off', log_config=None, access_log=False, server_header=False, timeout_keep_alive=75)\n"
        "uvicorn.Server(config).run(sockets=[s])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "BENCH_REPLY": str(reply)})
    try:
        for _ in range(500):
            if port_file.exists() and port_file.read_text():
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port_file.read_text()}{CREATE}"
    finally:
        process.terminate()
        process.wait(20)


def run(rounds: int, console: Console) -> list[Row]:
    """Measure; one row for each concurrency."""
    token = secrets.token_hex(16)
    body = json.dumps({"input": {"prompt": "a bench in a quiet park", **SMALL}}).encode()
    config = local_config() + f"\n[auth]\ntokens = ['{token}']\n[cache]\noutput_urls = 'url'\n"
    with tempfile.TemporaryDirectory() as folder, running_proxy(Path(folder) / "data", config) as proxy:
        url = proxy.public_url + CREATE
        headers = {"Authorization": f"Bearer {token}", "Prefer": "wait", "Content-Type": "application/json"}

        def ask() -> httpx.Response:
            return httpx.post(url, content=body, headers=headers, timeout=300, trust_env=False)

        first, hit = ask(), ask()
        if "; hit" not in hit.headers["cache-status"]:
            raise RuntimeError("the second request was no hit")
        runs = proxy.runs()
        script, reply = Path(folder) / "post.lua", Path(folder) / "reply.json"
        write_script(script, body, token)
        reply.write_bytes(hit.content)
        ratios: dict[int, list[float]] = {connections: [] for connections in CONCURRENCIES}
        with bare_application(reply, Path(folder) / "port") as bare:
            measure(url, script, 16), measure(bare, script, 16)  # warm both up
            plan = [connections for _ in range(rounds) for connections in CONCURRENCIES]
            for connections in track(plan, description="measuring", console=console, transient=True):
                sides = [("hotplate", url), ("bare", bare)]
                random.shuffle(sides)
                measured = {name: measure(where, script, connections) for name, where in sides}
                ratios[connections].append(measured["hotplate"].per_s / measured["bare"].per_s)
        last = ask()
        if last.json()["output"] != first.json()["output"] or proxy.runs() != runs:
            raise RuntimeError("the answers changed under load, or the model ran")
    return [Row(f"prediction hit ÷ bare app, c = {connections}", tuple(found)) for connections, found in ratios.items()]


def rows_in_flight(found: InFlight) -> list[Row]:
    """The rows of the second part."""
    what = f"{found.runs} runs of {found.seconds:g} s"
    return [
        Row(f"hits' p99 ÷ idle p99, {what} in flight", tuple(pair.ratio for pair in found.steady)),
        Row("the same, of the quieter quarter of slices", (quiet_ratio(found.steady),)),
        Row("the same, while they begin and end", (quiet_ratio(found.turning),)),
    ]


def main() -> None:
    """Print the table and, if asked, write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("hits", "in-flight"), help="one part alone")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    arguments = parser.parse_args()
    console = Console()
    if find_wrk() is None:
        console.print("bench: wrk is not installed (Debian: apt-get install wrk)")
        sys.exit(2)
    rows: list[Row] = []
    failures: list[str] = []
    if arguments.only != "in-flight":
        rows += run(arguments.rounds, console)
    if arguments.only != "hits":
        with console.status(f"{IN_FLIGHT_RUNS} runs in flight"):
            found = run_in_flight(IN_FLIGHT_RUNS, IN_FLIGHT_S)
        rows += rows_in_flight(found)
        failures = found.failures
    table = Table(title=f"Ratios of throughput, {arguments.rounds} interleaved rounds, 1 worker, 1 hot key in memory")
    for column in ("what", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(row.name, f"{row.median:.2f}", f"{min(row.ratios):.2f}", f"{max(row.ratios):.2f}")
    console.print(table)
    if arguments.only != "hits":
        console.print(
            f"In flight: {len(found.failures)} of {found.runs} runs failed; {found.looks} looks at the API. "
            f"The p99 must stay below {IN_FLIGHT_MUST:g} times the idle one, the goal is {IN_FLIGHT_GOAL:g}."
        )
    for failure in failures[:5]:
        console.print(f"  {failure}", markup=False)
    if arguments.write:
        document: dict[str, Any] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "rows": [
                {"name": row.name, "median": row.median, "low": min(row.ratios), "high": max(row.ratios)}
                for row in rows
            ],
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
