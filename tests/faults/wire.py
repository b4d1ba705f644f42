"""A client that sends what it is told byte for byte, and reads what comes back without trusting it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

from tests.faults.attacks import FORWARDED, Attack

ANSWER_WITHIN_S = 20.0
"""Every connection is answered or closed by then: the longest that anything may take with the limits of the tests."""

QUIET_S = 0.05
"""How long a client that expects nothing more listens for an answer that it should not get."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_upstreams(self) -> bool:
        """It is another service's own answer, passed on."""
        return "fwd-status=" in self.headers.get("cache-status", "") or "ratelimit-remaining" in self.headers


class Hung(Exception):
    """Nothing came, and the connection stayed open."""


async def strike(port: int, attack: Attack) -> list[Answer]:
    """Carry out an attack; the answers that came.

    Raises:
        Hung: neither answered nor closed in time.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    answers: list[Answer] = []
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            with contextlib.suppress(ConnectionError):
                for number, piece in enumerate(attack.pieces):
                    if number:
                        await asyncio.sleep(0.002)
                    writer.write(piece)
                    await writer.drain()
            if attack.leaves:
                return []
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while len(answers) <= attack.answers:
                    wait_s = None if not answers else (QUIET_S if len(answers) >= attack.answers else 1.0)
                    try:
                        async with asyncio.timeout(wait_s):
                            answer = await _read(reader, attack.method)
                    except TimeoutError:
                        if wait_s is None:
                            raise
                        break
                    if answer is None:
                        break
                    answers.append(answer)
    except TimeoutError as error:
        raise Hung(attack.name) from error
    finally:
        writer.transport.abort()
    return answers


async def _read(reader: asyncio.StreamReader, method: str) -> Answer | None:
    """One answer, ``None`` at the end of the connection."""
    while True:
        line = await reader.readline()
        if not line:
            return None
        assert line.startswith(b"HTTP/1.1 "), line[:200]
        status, headers = int(line.split(b" ")[1]), {}
        while (header := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if status >= 200:
            break
    if method == "HEAD" or status in (204, 304):
        return Answer(status, headers, b"")
    if "content-length" in headers:
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return Answer(status, headers, body)
    return Answer(status, headers, await reader.read())


def complaints(attack: Attack, answers: list[Answer]) -> list[str]:
    """What is wrong with the answers to an attack; empty when nothing is."""
    found: list[str] = []
    if len(answers) > attack.answers:
        found.append(f"{len(answers)} answers")
    if answers and attack.statuses and answers[0].status not in attack.statuses | {408}:
        found.append(f"status {answers[0].status} is none of {sorted(attack.statuses)}")
    for answer in answers:
        found += _complaints_about(attack, answer)
    return [f"{attack.name} {attack.method} {attack.path[:80]}: {each}" for each in found]


def _complaints_about(attack: Attack, answer: Answer) -> list[str]:
    found: list[str] = []
    if answer.status == 500 and not answer.is_upstreams:
        found.append("500")
    text = answer.body + repr(answer.headers).encode()
    if FORWARDED.encode() in text:
        found.append("names a host that only a header named")
    if "set-cookie" in answer.headers:
        found.append("sets a cookie")
    control = answer.headers.get("cache-control", "")
    if "no-store" not in control and "/outputs/" not in attack.path:
        found.append(f"{answer.status} may be kept by a shared cache: {control!r}")
    if answer.status >= 400 and not answer.is_upstreams and answer.body:
        found += _shape(answer)
    return found


def _shape(answer: Answer) -> list[str]:
    """Whether an error is the API's problem object."""
    try:
        problem: Any = json.loads(answer.body)
    except ValueError:
        return [f"{answer.status} is no JSON: {answer.body[:200]!r}"]
    if not isinstance(problem, dict) or problem.get("status") != answer.status:
        return [f"{answer.status} is no problem object: {answer.body[:200]!r}"]
    if not isinstance(problem.get("detail"), str) or not isinstance(problem.get("title", ""), str):
        return [f"{answer.status} does not say what is wrong: {answer.body[:200]!r}"]
    return []
