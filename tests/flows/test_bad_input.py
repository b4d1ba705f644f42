"""Bad input gets 4xx in the API's shape before any run, and the server goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.flows.harness import README_MODEL, SMALL, ProxyProcess

CREATE = f"/v1/models/{README_MODEL}/predictions"


def body(given: str) -> bytes:
    return b'{"input": {"prompt": "x", ' + given.encode() + b"}}"


BAD = {
    "broken JSON": (b'{"input": {"prompt": ', 400),
    "trailing text": (b'{"input": {"prompt": "x"}} x', 400),
    "no JSON at all": (b"prompt=x", 400),
    "empty": (b"", 400),
    "not UTF-8": (b'{"input": {"prompt": "\xff"}}', 400),
    "UTF-16": ('{"input": {"prompt": "x"}}'.encode("utf-16"), 400),
    "byte order mark": (b"\xef\xbb\xbf" + body('"seed": 1'), 400),
    "duplicate key": (body('"seed": 1, "seed": 2'), 400),
    "duplicate key by escape": (body('"seed": 1, "se\\u0065d": 2'), 400),
    "NaN": (body('"seed": NaN'), 400),
    "Infinity": (body('"seed": -Infinity'), 400),
    "a float that overflows": (body('"seed": 1e999'), 400),
    "an integer no float can hold": (body(f'"seed": 1{"0" * 400}'), 400),
    "5,000 digits": (body(f'"seed": {"9" * 5000}'), 400),
    "lone surrogate": (body('"negative_prompt": "\\ud800"'), 400),
    "100,000 deep": (body(f'"x": {"[" * 100_000}{"]" * 100_000}'), 400),
    "100,000 deep and open": (body(f'"x": {"[" * 100_000}'), 400),
    "100,000 objects deep": (b'{"a":' * 100_000, 400),
    "an array": (b"[]", 400),
    "null": (b"null", 400),
    "no input": (b"{}", 422),
    "input is a string": (b'{"input": "x"}', 422),
    "prompt missing": (b'{"input": {}}', 422),
    "prompt is null": (b'{"input": {"prompt": null}}', 422),
    "prompt is a number": (b'{"input": {"prompt": 1}}', 422),
    "width too small": (body('"width": 1'), 422),
    "width is text": (body('"width": "64"'), 422),
    "width is a fraction": (body('"width": 64.5'), 422),
    "width is true": (body('"width": true'), 422),
    "seed beyond 64 bit as a float": (body('"seed": 1e30'), 422),
    "unknown format": (body('"output_format": "exe"'), 422),
    "a bare path": (body('"image": "/etc/hostname"'), 422),
    "a relative path": (body('"image": "../secret.key"'), 422),
    "a file URL": (body('"image": "file:///etc/hostname"'), 422),
    "version where the path names the model": (b'{"version": "%s", "input": {"prompt": "x"}}' % (b"0" * 64), 422),
    "a webhook that nobody would call": (b'{"webhook": "http://example.com/", "input": {"prompt": "x"}}', 422),
}


@pytest.fixture
def http(proxy: ProxyProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.public_url, timeout=30, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("name", BAD)
def test_bad_body_is_refused_before_any_run(proxy: ProxyProcess, http: httpx.Client, name: str) -> None:
    content, status = BAD[name]
    runs = proxy.runs()
    answer = http.post(CREATE, content=content, headers={"Content-Type": "application/json", "Prefer": "wait"})
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert answer.headers["cache-control"] == "private, no-store"
    assert proxy.runs() == runs
    assert httpx.get(f"{proxy.admin_url}/livez", trust_env=False).status_code == 200


def test_body_over_the_limit_is_refused_with_and_without_announcement(proxy: ProxyProcess, http: httpx.Client) -> None:
    large = json.dumps({"input": {"prompt": "x" * (17 * 1024**2)}}).encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 1 << 20):
            yield large[start : start + (1 << 20)]

    for content in (large, chunks()):
        try:
            answer = http.post(CREATE, content=content)
        except httpx.WriteError:
            continue  # it was refused while we were still sending
        assert (answer.status_code, answer.json()["status"]) == (413, 413)


def test_compressed_body_is_refused(http: httpx.Client) -> None:
    answer = http.post(CREATE, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["status"]) == (415, 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/predictions/nosuchprediction", 404),
        ("GET", "/v1/predictions/" + "a" * 26, 404),
        ("POST", "/v1/predictions/" + "a" * 26 + "/cancel", 404),
        ("POST", "/v1/models/nobody/nothing/predictions", 404),
        ("GET", "/v1/models/nobody/nothing", 404),
        ("GET", "/nowhere", 404),
        ("QUERY", "/v1/nowhere", 404),
        ("GET", "/outputs/" + "0" * 64 + "/" + "0" * 32 + "/out-0.webp", 404),
        ("GET", "/outputs/..%2f..%2fsecret.key/x/y", 404),
        ("GET", "/outputs/%00/x/y", 404),
        ("POST", "/outputs/" + "0" * 64 + "/" + "0" * 32 + "/out-0.webp", 405),
    ],
)
def test_what_is_not_there_is_said_in_the_api_s_shape(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path, json={"input": {"prompt": "x"}} if method == "POST" else None)
    assert (answer.status_code, answer.json()["status"]) == (status, status)


def test_version_request_with_a_malformed_version_is_refused(http: httpx.Client) -> None:
    for version in ("x", "a/b/c", "a/b:short", "", 5, None, "../x:" + "0" * 64):
        answer = http.post("/v1/predictions", json={"version": version, "input": {"prompt": "x"}})
        assert answer.status_code in (404, 422), version


def test_page_of_another_site_may_not_use_an_open_proxy(http: httpx.Client) -> None:
    given = {"input": {"prompt": "x", **SMALL}}
    foreign = http.post(CREATE, json=given, headers={"Origin": "https://evil.example"})
    rebound = http.post(CREATE, json=given, headers={"Host": "evil.example"})
    assert (foreign.status_code, rebound.status_code) == (403, 403)
