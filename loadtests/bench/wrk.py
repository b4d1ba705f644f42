"""One measurement by wrk, a public load generator that is far cheaper than what it measures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SECONDS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests per second and latency in milliseconds."""

    per_s: float
    p50_ms: float
    p99_ms: float


def find_wrk() -> str | None:
    """Path of wrk, or ``None`` where it is not installed."""
    return shutil.which("wrk")


def write_script(path: Path, body: bytes, token: str) -> None:
    """A wrk script that posts ``body`` as JSON with ``token``."""
    path.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = {json.dumps(body.decode())}\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
        'wrk.headers["Prefer"] = "wait"\n'
        f'wrk.headers["Authorization"] = "Bearer {token}"\n'
        "done = function(summary, latency, requests)\n"
        '  io.write(string.format("RESULT %f %f %f %d %d\\n",\n'
        "    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,\n"
        "    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.timeout))\n"
        "end\n",
        encoding="utf-8",
    )


def measure(url: str, script: Path, connections: int, seconds: int = SECONDS) -> Measured:
    """Post to ``url`` for ``seconds``.

    Raises:
        RuntimeError: an answer was no 2xx, or a connection failed: then the numbers would mean nothing.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True)
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk said nothing usable: {done.stdout}")
    per_s, p50_ms, p99_ms, bad, broken = found.groups()
    if int(bad) or int(broken):
        raise RuntimeError(f"{bad} answers were no 2xx and {broken} connections failed at {url}")
    return Measured(float(per_s), float(p50_ms), float(p99_ms))
