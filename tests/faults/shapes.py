"""The odd values that hostile requests are put together from."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from typing import Any

READABLE = ("/v1/account", "/v1/models", "/v1/hardware", "/v1/predictions", "/v1/nowhere", "/v1/collections")

PATHS = (
    "/v1/predictions", "/v1/predictions/abcdefghijklmnopqrstuvwxyz", "/v1/predictions/x/cancel", "/v1/models",
    "/v1/models/acme/pixel", "/v1/models/acme/pixel/versions", "/v1/models/acme/pixel/predictions", "/v1/files",
    "/v1/files/x", "/v1/files/x/download", "/v1/account", "/v1/hardware", "/v1/deployments", "/v1/collections",
    "/v1/webhooks/default/secret", "/v1/search", "/v1/trainings", "/v1/streams/x", "/outputs/a/b/c.png", "/", "/v1",
    "/_hotplate/status", "/metrics", "/_hotplate/progress/x",
)  # fmt: skip

ODD_IDS = (
    "..", ".", "%2e%2e", "%00", "%0a", "a%0a", "\u00e9", "a" * 26, "A" * 26, "a" * 10_000, "7" * 26, "%ff", "*", "'--",
    "a;b",
    "a%2fb", "..%2f..%2fsecret.key", "null", "-1", "0", "%s%n", "${jndi:x}", "a b".replace(" ", "%20"), "%F0%9F%A6%8A",
    "a" * 64,
    "eyJhIjoxfQ", "AAAA", "_", "~", "%5b%5d",
)  # fmt: skip

_LONG = "y" * 8000

HEADERS: dict[str, tuple[str | bytes, ...]] = {
    "Cache-Control": ("no-cache", "no-store", "max-age=-1", "max-age=9e9", "only-if-cached, only-if-cached", 'a="b',
                      "=,=,;", _LONG,
                      "max-age=\u0661", "no-cache=\"Set-Cookie\"", b"\xff\xfe", "max-stale=" + "9" * 400),
    "Prefer": ("wait=0", "wait=-5", "wait=1e9", "wait=NaN", "wait=\u0661", "wait;;;", 'wait="', ",,,", "respond-async",
               _LONG, b"wait=\xb2"),
    "Cancel-After": ("0", "5", "-5s", "5h5h", "99999999999999999999s", "\u0665s", "1e3", _LONG, b"\xb9\xb2s",
                     "9999h99999m999999s"),
    "Authorization": ("", "Bearer", "Bearer ", "Token\t", "Basic YTpi", "Bearer a b", "Bearer \u00e9",
                      "Bearer " + "t" * 60_000,
                      "bearer r8_nobody", "Negotiate x", b"Bearer \xff\xfe", "Bearer a,Bearer b",
                      'Digest username="a"'),
    "Content-Type": ("text/html", "multipart/form-data", "application/json; charset=utf-16", ";;;", _LONG, b"\xff",
                     "a/b/c"),
    "Content-Encoding": ("gzip", "identity", "IDENTITY", "gzip, gzip", "", "br"),
    "Accept": ("*/*;q=9", ";", "text/event-stream", _LONG, b"\xff"),
    "Accept-Encoding": ("gzip;q=0", "*", _LONG),
    "Range": ("bytes=0-", "bytes=-1", "bytes=9-1", "bytes=" + "0-0," * 3000, "bytes=" + "9" * 400 + "-", "lines=1",
              "bytes=\u0661-"),
    "If-None-Match": ('"a"', "*", 'W/"', '"' + "a" * 8000, ",,,", b'"\xff"'),
    "If-Range": ('"a"', "Thu, 99 Foo 0000", "-1"),
    "If-Modified-Since": ("Thu, 99 Foo 0000 00:00:00 GMT", "-1", "Sun, 06 Nov 99999 08:49:37 GMT", "\u0661"),
    "Last-Event-ID": ("0", "-1", "9" * 500, "\u0661", b"\xff", "a:b:c"),
    "Connection": ("authorization, close", "close, x-request-id", "keep-alive, host", "upgrade", ",", _LONG),
    "Upgrade": ("h2c", "websocket", "TLS/1.0, HTTP/1.1", "\u00e9"),
    "HTTP2-Settings": ("AAMAAABkAARAAAAAAAIAAAAA",),
    "Origin": ("null", "https://evil.test", "http://127.0.0.1", "\u00e9", "a:b:c"),
    "X-HTTP-Method-Override": ("DELETE", "PUT"),
    "Hotplate-Scope": ("shared", "../..", _LONG),
    "Hotplate-Pool": ("0", "-1", "9" * 400, "\u0661", "5:", "2", "1e3", b"\xb2", ""),
    "Hotplate-Vary": ("a" * 3000, "\u00e9", b"\xff", ""),
    "Hotplate-Key": ("a" * 3000, "\u00e9", b"\xff", ""),
    "Hotplate-Tags": ("a,b,,", "a" * 3000, ",".join(map(str, range(1000))), b"\xff"),
    "Hotplate-Namespace": ("a" * 300, "\u00e9", "..", ""),
    "Cookie": ("session=1", "a=b; " * 500),
    "TE": ("trailers", "gzip, chunked"),
    "Trailer": ("Authorization",),
    "Max-Forwards": ("0", "-1"),
    "Via": ("1.1 x",) * 2,
    "Date": ("yesterday",),
    "X-Request-Id": ("a\tb", _LONG),
    "Keep-Alive": ("timeout=99999",),
    "Proxy-Connection": ("keep-alive",),
    "Proxy-Authorization": ("Bearer r8_x",),
    "User-Agent": ("", _LONG, b"\xff\xfe"),
}  # fmt: skip

CONTENT_TYPES = ("application/json", "application/json", "application/json", "text/plain",
                 "application/json; charset=utf-16",
                 "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "",
                 "\u00e9/\u00e9")  # fmt: skip

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 5e-324, 2**53 + 1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**63),
    -(2**63) - 1,
    10**40, "", " ", "\x00", "\ud800", "\udfff\ud800", "\u202e", "e\u0301", "\u00e9", "a" * 5000, [], {}, [[]], [{}],
    {"": ""},
    {"a": None}, [1, "a", None], "NaN", "null", "true", "1", "data:,", "data:image/png;base64,%%%",
    "data:;base64," + "A" * 4001,
    "http://127.0.0.1/", "https://127.1/", "https://[::ffff:127.0.0.1]/", "http://169.254.169.254/latest",
    "file:///etc/passwd",
    "/etc/passwd", "https://a@127.0.0.1/", "http://good.test\\@127.0.0.1/", "javascript:1", "https://[example.com]/",
    "gopher://x",
    float("nan"), float("inf"), -float("inf"), {"__proto__": {"a": 1}}, {"$ref": "#"}, ["x"] * 2000,
    {str(number): number for number in range(500)}, "\u0000\u0001", "https://\uff11\uff12\uff17.0.0.1/", "${7*7}",
    "%s" * 50,
)  # fmt: skip

FIELDS = (
    "version",
    "input",
    "webhook",
    "webhook_events_filter",
    "webhook_completed",
    "stream",
    "id",
    "model",
    "unknown",
    "",
    "data",
)
INPUT_FIELDS = (
    "prompt",
    "seed",
    "image",
    "width",
    "height",
    "num_outputs",
    "guidance",
    "output_format",
    "nobody_knows",
    "\x00",
    "",
)


def create_document(chance: random.Random, model: str) -> dict[str, Any]:
    """A create body with one to four fields that are not what they should be."""
    document: dict[str, Any] = {"input": {"prompt": f"hostile {chance.randrange(50)}", "seed": chance.randrange(3)}}
    for _ in range(chance.randint(1, 4)):
        value = chance.choice(ODD_VALUES)
        if chance.random() < 0.6:
            given = document.get("input")
            if isinstance(given, dict):
                given[chance.choice(INPUT_FIELDS)] = value
        else:
            document[chance.choice(FIELDS)] = value
    return document


_REFUSED = frozenset({400})
_ANY: frozenset[int] = frozenset()


def _around(value: str) -> bytes:
    return b'{"input": {"prompt": "x", ' + value.encode("utf-8", "surrogatepass") + b"}}"


def broken_body(chance: random.Random) -> tuple[bytes, frozenset[int]]:
    """A body, and the statuses that it may have."""
    depth = chance.choice([65, 1000, 100_000])
    digits = chance.choice([20, 400, 5000])
    kinds: list[tuple[bytes | Callable[[], bytes], frozenset[int]]] = [
        (_around('"seed": 1, "seed": 2'), _REFUSED),
        (_around('"seed": 1, "s\\u0065ed": 2'), _REFUSED),
        (b'{"input": {"prompt": "x"}, "input": {"prompt": "y"}}', _REFUSED),
        (_around('"seed": NaN'), _REFUSED),
        (_around('"seed": -Infinity'), _REFUSED),
        (_around('"seed": 1e999'), _REFUSED),
        (_around('"x": "\\ud800"'), _REFUSED),
        (_around('"\\udfff": 1'), _REFUSED),
        (b'{"input": {"prompt": "\xed\xa0\x80"}}', _REFUSED),
        (b'{"input": {"prompt": "\xc3"}}', _REFUSED),
        (b'{"input": {"prompt": "\xc0\x80"}}', _REFUSED),
        (lambda: _around(f'"x": {"[" * depth}{"]" * depth}'), _REFUSED),
        (lambda: _around(f'"x": {"[" * depth}'), _REFUSED),
        (lambda: b'{"a":' * depth, _REFUSED),
        (lambda: _around(f'"seed": {"9" * max(digits, 21)}'), _REFUSED),
        (lambda: _around(f'"seed": -{"9" * max(digits, 21)}'), _REFUSED),
        (_around('"seed": 18446744073709551616'), _REFUSED),
        (_around('"seed": 18446744073709551617'), _REFUSED),
        (_around('"seed": 00'), _REFUSED),
        (_around('"seed": 1.'), _REFUSED),
        (_around('"seed": .5'), _REFUSED),
        (_around('"seed": +5'), _REFUSED),
        (_around('"seed": 0x10'), _REFUSED),
        (_around("'seed': 1"), _REFUSED),
        (_around('"x": "a\nb"'), _REFUSED),
        (_around('"x": "\\x41"'), _REFUSED),
        (_around('"x": 1,'), _REFUSED),
        (_around('"x": 1 /* note */'), _REFUSED),
        (b'{"input": {"prompt": "x"}} {}', _REFUSED),
        (b'{"input": {"prompt": "x"}}\x00', _REFUSED),
        ('{"input": {"prompt": "x"}}'.encode(chance.choice(["utf-16", "utf-16-le", "utf-32", "utf-16-be"])), _REFUSED),
        (b"\xef\xbb\xbf" + _around('"seed": 1'), _REFUSED),
        (b"\x00" * chance.choice([1, 1000]), _REFUSED),
        (lambda: random.Random(chance.random()).randbytes(chance.choice([1, 50, 5000])), _ANY),
        (b"", _REFUSED),
        (b"prompt=x&seed=1", _REFUSED),
        (chance.choice([b"null", b"[]", b"1", b'"x"', b"true"]), _REFUSED),
        (lambda: json.dumps({"input": {f"field{number}": number for number in range(chance.choice([100,
        20_000]))}}).encode(),
        _ANY),
        (lambda: json.dumps({"input": {"prompt": "z" * chance.choice([1000, 300_000])}}).encode(), _ANY),
        (lambda: json.dumps({"input": {"prompt": "w"}, "webhook": "https://" + "a" * 9000}).encode(), _ANY),
        (lambda: json.dumps({"input": {"image": ["https://127.0.0.1/"] * 500}}).encode(), _ANY),
        (lambda: json.dumps({"input": {"image": "data:image/png;base64," + "A" * 300_000}}).encode(), _ANY),
    ]  # fmt: skip
    body, statuses = chance.choice(kinds)
    return (body if isinstance(body, bytes) else body()), statuses


_BOMB = gzip.compress(bytes(8 * 1024**2), 9)


def bomb(chance: random.Random) -> bytes:
    """Few bytes that would be many, or none at all."""
    return chance.choice([_BOMB, _BOMB[:100], b"\x1f\x8b", b"{}", b""])


def upload(chance: random.Random) -> tuple[str, bytes]:
    """A content type and a body for the files API."""
    part = b'--x\r\nContent-Disposition: form-data; name="content"; filename="%s"\r\n'
    part += b"Content-Type: image/png\r\n\r\n%s\r\n--x--\r\n"
    form = "multipart/form-data; boundary=x"
    return chance.choice(
        [
            (form, part % (b"a.png", b"pixels")),
            (form, part % (b"../../etc/passwd", b"pixels")),
            (form, part % (b"a\x00b", b"pixels")),
            (form, part % (b"\xff\xfe", b"pixels")),
            (form, part % (b"n" * 9000, b"pixels")),
            (form, part % (b'a"; name="other', b"pixels")),
            (form, (part % (b"a.png", b"pixels"))[:-8]),
            (form, (part % (b"a.png", b"pixels"))[: chance.randrange(20, 120)]),
            (form, b"--x\r\n" * 5000),
            (form, b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\n--x--\r\n"),
            (
                form,
                b'--x\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n' + b"[" * 50_000 + b"\r\n--x--\r\n",
            ),
            (
                form,
                b'--x\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{"a":NaN}\r\n' + part % (b"a", b"b"),
            ),
            (form, b'--x\r\nContent-Disposition: form-data; name="type"\r\n\r\n\xff\r\n' + part % (b"a", b"b")),
            (form, part % (b"a.png", b"pixels") + part % (b"b.png", b"again")),
            (form, b""),
            ("multipart/form-data", part % (b"a.png", b"pixels")),
            ("multipart/form-data; boundary=" + "y" * 300, b"--y"),
            ("multipart/form-data; boundary=", b"--"),
            ('multipart/form-data; boundary="\u00e9"', b"--"),
            ("multipart/mixed; boundary=x", part % (b"a.png", b"pixels")),
            ("application/json", b"{}"),
            ("", b"x"),
        ]
    )
