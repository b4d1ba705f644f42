"""Hostile requests, made from numbers: the same number is always the same request, so that one can be sent again.

An ``Attack`` is bytes for one connection. Families follow the threats: framing, paths, headers, bodies, inputs, files,
ids. Whether an answer is right is judged by ``tests/faults/wire.py``; where an attack has only one right answer,
it says so itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults import shapes

FORWARDED = "forwarded-host.test"
"""Only ever stands in headers that must change nothing: no answer may name it."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One hostile connection.

    Attributes:
        name: family and number, to make it again.
        pieces: what is sent, one after the other with a moment between.
        statuses: those that the first answer may have; any but 500 where it is empty.
        leaves: the client goes right after it has sent, and reads nothing.
        method: of the first request, as far as it has one.
        path: likewise.
        answers: most answers that may come.
    """

    name: str
    pieces: Sequence[bytes]
    statuses: frozenset[int] = frozenset()
    leaves: bool = False
    method: str = "POST"
    path: str = ""
    answers: int = 1


@dataclass
class Target:
    """What the attacks are aimed at.

    Attributes:
        host: value of a right ``Host`` header.
        tokens: credentials of callers.
        model: of the API, makes a run; ``own_model`` is one of Hotplate's own, and ``own_token`` opens it.
        ids: of predictions, of outputs and streams: paths that exist.
    """

    host: str
    tokens: Sequence[str]
    model: str = "acme/pixel"
    own_model: str = "hotplate/demo"
    own_token: str = ""
    paths: list[str] = field(default_factory=list)

    @property
    def create(self) -> str:
        return f"/v1/models/{self.model}/predictions"


def make(target: Target, number: int) -> Attack:
    """The attack of that number."""
    chance = random.Random(number)
    families = list(FAMILIES)
    family = families[number % len(families)] if number % 3 else chance.choice(families)
    attack = FAMILIES[family](target, chance)
    return Attack(
        f"{family}#{number}",
        attack.pieces,
        attack.statuses,
        attack.leaves,
        attack.method,
        attack.path,
        attack.answers,
    )


def request(
    target: Target,
    method: str = "POST",
    path: str | None = None,
    headers: Sequence[tuple[str, str | bytes]] = (),
    body: bytes | None = None,
    *,
    token: str | None = None,
    host: str | None = None,
    version: str = "1.1",
) -> bytes:
    """A request as bytes, with a right length unless ``headers`` has another framing."""
    lines: list[tuple[str, str | bytes]] = [("Host", target.host if host is None else host)]
    if token is not None:
        lines.append(("Authorization", f"Bearer {token}"))
    lines += headers
    named = {name.lower() for name, _ in headers}
    if body is not None and not named & {"content-length", "transfer-encoding"}:
        lines.append(("Content-Length", str(len(body))))
    head = [f"{method} {target.create if path is None else path} HTTP/{version}\r\n".encode("utf-8", "surrogateescape")]
    for name, value in lines:
        text = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        head.append(name.encode() + b": " + text + b"\r\n")
    return b"".join(head) + b"\r\n" + (body or b"")


def simple(prompt: str) -> bytes:
    return json.dumps({"input": {"prompt": prompt, "seed": 1}}).encode()


# -- framing: what one parser reads as one request and another as two ------------------------------------

_INNER = b"GET /v1/account HTTP/1.1\r\nHost: inner.test\r\nX-Smuggled: yes\r\n\r\n"


def _framing(target: Target, chance: random.Random) -> Attack:
    body, length = b"5\r\nhello\r\n0\r\n\r\n", ("Content-Length", "6")
    chunked = ("Transfer-Encoding", "chunked")
    doubtful: list[list[tuple[str, str | bytes]]] = [
        [length, chunked],
        [chunked, length],
        [length, ("Content-Length", "7")],
        [("Content-Length", "6, 6")],
        [("Content-Length", "6 6")],
        [("Content-Length", "+6")],
        [("Content-Length", "-1")],
        [("Content-Length", "0x6")],
        [("Content-Length", "6\x0b")],
        [("Content-Length", "\u00b2")],
        [("Content-Length", "9" * 30)],
        [("Content-Length", "")],
        [("Transfer-Encoding", "xchunked")],
        [("Transfer-Encoding", "chunked, identity")],
        [("Transfer-Encoding", "\x0bchunked")],
        [("Transfer-Encoding", "identity"), length],
        [("Transfer-Encoding ", "chunked")],
        [(" Transfer-Encoding", "chunked"), length],
        [("X\r\n Transfer-Encoding", "chunked"), length],
        [("Transfer-Encoding\x00", "chunked"), length],
        [("X", "a\r\n\tb"), chunked, length],
    ]
    kind = chance.randrange(10)
    token = chance.choice(target.tokens)
    if kind < 4:
        headers = chance.choice(doubtful)
        payload = request(target, "POST", headers=headers, body=body + _INNER, token=token)
        return Attack("", _cut(payload, chance), frozenset({400, 404, 413, 415, 422, 431}), answers=1)
    if kind == 4:
        chunk = chance.choice(
            [b"-5\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n",
             b"ffffffffffffffffff\r\n",
             b"5;a=b\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhell\r\n0\r\n\r\n",
             b"g\r\n",
             b"5;" + b"x" * 70_000, b"0\r\nContent-Length: 5\r\nX-Evil: 1\r\n\r\n",
             b"0\r\n" + b"a: b\r\n" * 9000 + b"\r\n"]
        )  # fmt: skip
        payload = request(target, "POST", headers=[chunked], body=chunk, token=token)
        return Attack("", _cut(payload, chance), frozenset({400, 408, 422, 431}), answers=1)
    if kind == 5:
        line = chance.choice(
            [b"GET /v1/account HTTP/1.1\r\n\r\n", b"GET /v1/account\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
             b"GET /v1/account HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET  /v1/account HTTP/1.1\r\nHost: a\r\n\r\n",
             b"GET /v1/account HTTP/9.9\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
             b"\x00" * 64,
             b"GET /v1/account HTTP/1.1\nHost: a\n\n", b"GET\t/v1/account\tHTTP/1.1\r\nHost: a\r\n\r\n",
             b"GET http://absolute.test/v1/account HTTP/1.1\r\nHost: a\r\n\r\n",
             b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
             b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"GET @evil.test/ HTTP/1.1\r\nHost: a\r\n\r\n",
             b"GET /v1/account HTTP/1.1\r\nHost: a\r\n obs: fold\r\n\r\n",
             b"GET /v1/acc\x00ount HTTP/1.1\r\nHost: a\r\n\r\n",
             b"GET /v1/account HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
             b"GET /v1/account HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
             b"GET /v1/account HTTP/1.1\r\n" + b"Host: a\r\n" * 300 + b"\r\n", b"\r\n" * 500, b"SSH-2.0-x\r\n"]
        )  # fmt: skip
        return Attack(
            "", _cut(line, chance), frozenset({400, 401, 404, 405, 408, 421, 431, 505}), method="GET", answers=2
        )
    if kind == 6:  # a whole row of requests, the last one broken
        row = [
            request(target, "GET", path, token=token)
            for path in chance.choices(shapes.READABLE, k=chance.randint(2, 20))
        ]
        return Attack("", [b"".join(row) + b"nonsense\r\n\r\n"], method="GET", answers=len(row) + 1)
    if kind == 7:  # less than was announced
        payload = request(target, "POST", headers=[("Content-Length", "5000")], body=b"{" * 20, token=token)
        leaves = chance.random() < 0.9
        return Attack("", [payload], frozenset({408}), leaves=leaves)
    if kind == 8:  # a head that never ends, or a client that leaves in the middle of one
        payload = request(target, "POST", body=simple("x"), token=token)[: chance.randint(1, 60)]
        return Attack("", [payload], frozenset({408, 400}), leaves=chance.random() < 0.9)
    more = request(
        target,
        "POST",
        headers=[("Expect", chance.choice(["100-continue", "200-maybe"]))],
        body=simple("exp"),
        token=token,
    )
    return Attack("", [more], frozenset({201, 202, 401, 417}), answers=1)


def _cut(payload: bytes, chance: random.Random) -> list[bytes]:
    """In one piece or several."""
    if chance.random() < 0.7 or len(payload) < 10:
        return [payload]
    place = chance.randrange(1, len(payload))
    return [payload[:place], payload[place:]]


# -- methods and paths ---------------------------------------------------------------------------------

_METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "MKCOL", "PURGE", "BREW",
    "get",
    "LINK", "SEARCH", "X" * 300, "M-SEARCH", "GET/", "\u00c9", "REPORT", "LOCK",
)  # fmt: skip

_MUTATIONS: Sequence[Callable[[str, random.Random], str]] = (
    lambda path, chance: (
        path + chance.choice([".css", "/x.css", ";x.css", "%00", "%0a", "%0d%0aX-Evil:%201", "?.css", "%3f.png"])
    ),
    lambda path, chance: path.replace(
        "/", chance.choice(["//", "/./", "/x/../", "%2f", "/%2e%2e/", "\\", "/..;/", "/%2e/"]), 1
    ),
    lambda path, chance: (
        path + "/" + chance.choice(["..", "%2e%2e", "../../etc/passwd", "%252e%252e", "..%5c..", "\x7f", "%zz"])
    ),
    lambda path, chance: (
        path + chance.choice(["/", "//", "#frag", "%23", "?" + "a=b&" * 500, "?cursor=%00", "?\x01", "?%ff"])
    ),
    lambda path, chance: path[: chance.randint(1, len(path))],
    lambda path, chance: path + "/" + "a" * chance.choice([300, 9_000, 70_000]),
    lambda path, chance: path.upper(),
    lambda path, chance: path + chance.choice(["\u00e9", "%c3%a9", "%ed%a0%80", "%ff%fe", "\u202e", "%u0041"]),
    lambda path, chance: (
        chance.choice(
            [
                "//evil.test",
                "http://evil.test",
                "/v1/v1/v1",
                "///",
                "/_hotplate",
                "/%76%31",
                "/@nobody",
                "/@",
                "/@..",
                "/@a%2fb",
                "/@" + "p" * 9000,
            ]
        )
        + path
    ),
    lambda path, chance: path,
)


def _path(target: Target, chance: random.Random) -> Attack:
    path = chance.choice([*shapes.PATHS, *target.paths])
    for _ in range(chance.choice([1, 1, 2])):
        path = chance.choice(_MUTATIONS)(path, chance)
    method = (
        chance.choice(_METHODS) if chance.random() < 0.3 else chance.choice(["GET", "GET", "HEAD", "POST", "DELETE"])
    )
    body = simple("path") if method not in ("GET", "HEAD") or chance.random() < 0.1 else None
    token = chance.choice([*target.tokens, None])
    return Attack("", [request(target, method, path, body=body, token=token)], method=method, path=path)


# -- headers -------------------------------------------------------------------------------------------


def _header(target: Target, chance: random.Random) -> Attack:
    path = chance.choice([target.create, "/v1/account", *target.paths])
    method = "POST" if path == target.create else chance.choice(["GET", "HEAD"])
    headers: list[tuple[str, str | bytes]] = []
    for _ in range(chance.choice([1, 1, 2, 5])):
        name = chance.choice(list(shapes.HEADERS))
        headers.append((name, chance.choice(shapes.HEADERS[name])))
    if chance.random() < 0.1:
        headers += [
            (f"X-{number}", "y" * chance.choice([1, 200])) for number in range(chance.choice([50, 199, 201, 2000]))
        ]
    if chance.random() < 0.2:
        headers.append((chance.choice(["X-Forwarded-Host", "Forwarded", "X-Original-URL", "X-Host",
                       "X-Forwarded-Server"]),
                        FORWARDED if chance.random() < 0.5 else f"host={FORWARDED};proto=gopher"))  # fmt: skip
    token = None if any(name == "Authorization" for name, _ in headers) else chance.choice(target.tokens)
    host = chance.choice([FORWARDED, "", "a:b:c", "[::1", "x" * 300]) if chance.random() < 0.1 else None
    body = simple("header") if method == "POST" else None
    payload = request(target, method, path, headers, body, token=token, host=host)
    return Attack("", [payload], method=method, path=path)


# -- bodies of creates ---------------------------------------------------------------------------------


def _body(target: Target, chance: random.Random) -> Attack:
    path = chance.choice([target.create, target.create, "/v1/predictions", f"/v1/models/{target.own_model}/predictions",
                          "/v1/deployments/acme/pixel/predictions"])  # fmt: skip
    token = target.own_token if target.own_model in path else chance.choice(target.tokens)
    body, statuses = shapes.broken_body(chance)
    headers: list[tuple[str, str | bytes]] = [("Content-Type", chance.choice(shapes.CONTENT_TYPES))]
    if chance.random() < 0.05:
        headers.append(("Content-Encoding", chance.choice(["gzip", "br", "zstd", "identity, gzip", "deflate", "x"])))
        body, statuses = shapes.bomb(chance), frozenset({415})
    if chance.random() < 0.3:
        headers.append(("Prefer", chance.choice(["wait", "wait=1"])))
    return Attack("", _cut(request(target, "POST", path, headers, body, token=token), chance), statuses, path=path)


def _input(target: Target, chance: random.Random) -> Attack:
    """A body that is JSON, with wrong types in the places of the API's schema."""
    document = shapes.create_document(chance, target.model)
    is_own = chance.random() < 0.3
    path = f"/v1/models/{target.own_model}/predictions" if is_own else chance.choice([target.create, "/v1/predictions"])
    if path == "/v1/predictions":
        document.setdefault("version", chance.choice([target.model, *shapes.ODD_VALUES]))
    token = target.own_token if is_own else chance.choice(target.tokens)
    body = json.dumps(document, allow_nan=True).encode("utf-8", "surrogatepass")
    headers: list[tuple[str, str | bytes]] = [("Content-Type", "application/json")]
    if not is_own and chance.random() < 0.3:
        headers.append(("Prefer", "wait=1"))
    return Attack("", [request(target, "POST", path, headers, body, token=token)], path=path)


# -- files, ids, lists ---------------------------------------------------------------------------------


def _file(target: Target, chance: random.Random) -> Attack:
    content_type, body = shapes.upload(chance)
    token = chance.choice([*target.tokens, target.own_token])
    headers: list[tuple[str, str | bytes]] = [("Content-Type", content_type)]
    return Attack("", _cut(request(target, "POST", "/v1/files", headers, body, token=token), chance), path="/v1/files")


def _id(target: Target, chance: random.Random) -> Attack:
    odd = chance.choice(shapes.ODD_IDS)
    path, method = chance.choice(
        [(f"/v1/predictions/{odd}", "GET"), (f"/v1/predictions/{odd}/cancel", "POST"), (f"/v1/files/{odd}", "GET"),
         (f"/v1/files/{odd}", "DELETE"), (f"/v1/files/{odd}/download", "GET"), (f"/v1/streams/{odd}", "GET"),
         (f"/outputs/{odd}/{odd}/{odd}", "GET"), (f"/outputs/{'a' * 64}/{odd}/x.png", "HEAD"),
         (f"/v1/predictions?cursor={odd}", "GET"), (f"/v1/files?cursor={odd}", "GET"), (f"/v1/models/{odd}/{odd}",
         "GET"),
         (f"/v1/models/{target.own_model}/versions/{odd}", "GET"), (f"/v1/deployments/{odd}/{odd}/predictions", "POST"),
         (f"/v1/search?query={odd}", "GET"), (f"/v1/models?cursor={odd}", "GET")]
    )  # fmt: skip
    token = chance.choice([*target.tokens, target.own_token])
    body = simple("id") if method == "POST" else None
    return Attack("", [request(target, method, path, body=body, token=token)], method=method, path=path)


FAMILIES: dict[str, Callable[[Target, random.Random], Attack]] = {
    "framing": _framing,
    "path": _path,
    "header": _header,
    "body": _body,
    "input": _input,
    "file": _file,
    "id": _id,
}
