"""Addresses of outputs, asked over the wire: what a browser, a shared cache and a stranger get."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from blake3 import blake3
from PIL import Image

from tests.flows.harness import README_MODEL, SMALL, ProxyProcess, local_config, running_proxy

TOKEN_A = "own-token-of-the-first-caller"
TOKEN_B = "own-token-of-the-second-caller"
CREATE = f"/v1/models/{README_MODEL}/predictions"
LARGE = {"width": 2048, "height": 1024, "num_inference_steps": 1, "output_format": "png"}
STREAMED_FROM_BYTES = 2 * 1024**2
CONFIG = local_config() + f'[cache]\noutput_urls = "url"\n[auth]\ntokens = ["{TOKEN_A}", "{TOKEN_B}"]\n'


def create(proxy: ProxyProcess, given: dict[str, Any], token: str = TOKEN_A) -> httpx.Response:
    headers = {"Prefer": "wait", "Authorization": f"Bearer {token}"}
    answer = httpx.post(proxy.public_url + CREATE, json={"input": given}, headers=headers, timeout=110, trust_env=False)
    assert answer.json()["status"] == "succeeded", answer.text
    return answer


def ask(url: str, method: str = "GET", **headers: str) -> httpx.Response:
    """One request that adds no header of its own that changes the answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, url, headers=named, timeout=60, trust_env=False)


def blob_file(proxy: ProxyProcess, data: bytes) -> Path:
    name = blake3(data).hexdigest()
    return proxy.data_dir / "cas.v1" / name[:2] / name


@dataclass
class Picture:
    """A stored picture: its address, its bytes and the answer that brought them."""

    url: str
    whole: httpx.Response

    @property
    def data(self) -> bytes:
        return self.whole.content

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def etag(self) -> str:
        return self.whole.headers["etag"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    with running_proxy(tmp_path_factory.mktemp("outputs") / "data", CONFIG) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def pictures(server: ProxyProcess) -> dict[str, Picture]:
    """One file that is sent as one message, and one that is streamed."""
    made = {}
    for name, given in {"small": SMALL, "large": LARGE}.items():
        url = create(server, {"prompt": name, "seed": 1, **given}).json()["output"][0]
        made[name] = Picture(url, ask(url))
    assert made["small"].size < STREAMED_FROM_BYTES < made["large"].size
    return made


@pytest.fixture(params=["small", "large"])
def picture(request: pytest.FixtureRequest, pictures: dict[str, Picture]) -> Picture:
    return pictures[request.param]


@pytest.fixture
def small(pictures: dict[str, Picture]) -> Picture:
    return pictures["small"]


def assert_safe_in_a_browser(answer: httpx.Response) -> None:
    """What every answer of the route carries, errors included."""
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "set-cookie" not in answer.headers


def assert_whole(answer: httpx.Response, picture: Picture) -> None:
    assert answer.status_code == 200
    assert "content-range" not in answer.headers
    assert answer.content == picture.data


def assert_missing(answer: httpx.Response) -> None:
    """A 404 that a shared cache forgets in seconds."""
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "public, max-age=5"
    assert answer.json()["status"] == 404
    assert "etag" not in answer.headers
    assert_safe_in_a_browser(answer)


# -- the whole file ------------------------------------------------------------------------------------


def test_status_is_200(picture: Picture) -> None:
    assert picture.whole.status_code == 200


def test_content_type_comes_from_the_bytes(picture: Picture) -> None:
    with Image.open(io.BytesIO(picture.data)) as opened:
        assert picture.whole.headers["content-type"] == f"image/{(opened.format or '').lower()}"


def test_content_length_is_the_number_of_bytes(picture: Picture) -> None:
    assert picture.whole.headers["content-length"] == str(picture.size)


def test_etag_is_strong_and_is_the_digest(picture: Picture) -> None:
    assert picture.etag == f'"b3-{blake3(picture.data).hexdigest()}"'


def test_last_modified_is_a_date_of_gmt(picture: Picture) -> None:
    date = picture.whole.headers["last-modified"]
    assert date.endswith(" GMT")
    # The server's own clock for Date ticks once a second.
    late = parsedate_to_datetime(date) - parsedate_to_datetime(picture.whole.headers["date"])
    assert late.total_seconds() <= 1


def test_ranges_are_announced(picture: Picture) -> None:
    assert picture.whole.headers["accept-ranges"] == "bytes"


def test_file_may_be_kept_for_good_by_anybody(picture: Picture) -> None:
    directives = picture.whole.headers["cache-control"].split(", ")
    assert {"public", "max-age=31536000", "immutable"} <= set(directives)


def test_file_is_safe_in_a_browser(picture: Picture) -> None:
    assert_safe_in_a_browser(picture.whole)


def test_picture_is_shown_and_not_downloaded(picture: Picture) -> None:
    assert picture.whole.headers["content-disposition"].startswith("inline; ")


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=0-9"}, {"Range": "bytes=999999999-"}], ids=str)
def test_head_is_get_without_the_body(picture: Picture, asked: dict[str, str]) -> None:
    answer = ask(picture.url, "HEAD", **asked)
    assert (answer.status_code, answer.content) == (200, b"")
    own_to_each = {"date", "x-request-id"}
    told = {name: value for name, value in answer.headers.items() if name not in own_to_each}
    assert told == {name: value for name, value in picture.whole.headers.items() if name not in own_to_each}


# -- ranges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=100-199", 100, 199),
        ("bytes=-1", -1, -1),
        ("bytes=-100", -100, -1),
        ("bytes=100-", 100, -1),
        ("bytes=0-", 0, -1),
        ("bytes=100-999999999", 100, -1),
        ("bytes=-999999999", 0, -1),
    ],
)
def test_range_gives_just_these_bytes(picture: Picture, asked: str, first: int, last: int) -> None:
    first, last = first % picture.size, last % picture.size
    answer = ask(picture.url, Range=asked)
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{picture.size}"
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.content == picture.data[first : last + 1]
    for name in ("etag", "content-type", "cache-control", "last-modified"):
        assert answer.headers[name] == picture.whole.headers[name]
    assert_safe_in_a_browser(answer)


def test_if_range_with_the_strong_etag_gives_the_range(picture: Picture) -> None:
    answer = ask(picture.url, Range="bytes=5-9", If_Range=picture.etag)
    assert (answer.status_code, answer.content) == (206, picture.data[5:10])


@pytest.mark.parametrize("form", ["W/{etag}", '"b3-of-something-else"', '"', "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_if_range_with_anything_else_gives_the_whole(picture: Picture, form: str) -> None:
    assert_whole(ask(picture.url, Range="bytes=5-9", If_Range=form.format(etag=picture.etag)), picture)


@pytest.mark.parametrize("past", ["bytes={size}-", "bytes=999999999-", "bytes=-0"])
def test_range_without_a_byte_of_the_file_is_416(picture: Picture, past: str) -> None:
    answer = ask(picture.url, Range=past.format(size=picture.size))
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{picture.size}"
    assert answer.headers["cache-control"] == "no-store"
    assert_safe_in_a_browser(answer)


@pytest.mark.parametrize("asked", ["bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=9-5", "bytes 0-5", "0-5", ""])
def test_range_that_cannot_be_read_is_ignored(small: Picture, asked: str) -> None:
    assert_whole(ask(small.url, Range=asked), small)


@pytest.mark.parametrize("asked", ["lines=0-5", "none=0-5", "seconds=1-"])
def test_range_in_an_unknown_unit_is_ignored(small: Picture, asked: str) -> None:
    assert_whole(ask(small.url, Range=asked), small)


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=0-0, -1", "bytes=0-,0-,0-,0-"])
def test_several_ranges_give_the_whole(picture: Picture, asked: str) -> None:
    assert_whole(ask(picture.url, Range=asked), picture)


def test_client_that_takes_a_file_slowly_gets_every_byte(pictures: dict[str, Picture]) -> None:
    picture = pictures["large"]
    parts, last = urlsplit(picture.url), STREAMED_FROM_BYTES - 1
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.connect((parts.hostname, parts.port))
        head = (
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nRange: bytes=0-{last}\r\nConnection: close\r\n\r\n"
        )
        client.sendall(head.encode())
        time.sleep(1.5)  # what was read at once is no longer held
        received = bytearray()
        while data := client.recv(65536):
            received += data
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 206 ")
    assert body == picture.data[:STREAMED_FROM_BYTES]


# -- conditions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{etag}", "W/{etag}", '"other", {etag}', '"other" , W/{etag}', "*"])
def test_if_none_match_gives_304(picture: Picture, form: str) -> None:
    answer = ask(picture.url, If_None_Match=form.format(etag=picture.etag))
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == picture.etag
    assert answer.headers["cache-control"] == picture.whole.headers["cache-control"]
    assert_safe_in_a_browser(answer)


def test_if_none_match_of_another_file_gives_the_whole(picture: Picture) -> None:
    assert_whole(ask(picture.url, If_None_Match='"b3-of-something-else"'), picture)


def test_condition_comes_before_the_range(picture: Picture) -> None:
    assert ask(picture.url, If_None_Match=picture.etag, Range="bytes=0-9").status_code == 304


def test_if_modified_since_the_file_s_own_date_gives_304(picture: Picture) -> None:
    assert ask(picture.url, If_Modified_Since=picture.whole.headers["last-modified"]).status_code == 304


@pytest.mark.parametrize("given", [SMALL, LARGE], ids=["small", "large"])
def test_304_needs_no_file(server: ProxyProcess, given: dict[str, Any]) -> None:
    url = create(server, {"prompt": "to be deleted", "seed": 1, **given}).json()["output"][0]
    digest = httpx.URL(url).path.split("/")[2]
    (server.data_dir / "cas.v1" / digest[:2] / digest).unlink()
    for _ in range(2):
        assert ask(url, If_None_Match=f'"b3-{digest}"').status_code == 304
        assert_missing(ask(url))
    assert ask(url, "HEAD").status_code == 404


# -- other methods -------------------------------------------------------------------------------------


def test_preflight_is_answered(small: Picture) -> None:
    answer = ask(small.url, "OPTIONS", Origin="https://example.com", Access_Control_Request_Method="GET")
    assert (answer.status_code, answer.content) == (204, b"")
    assert {"GET", "HEAD"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    assert "Range" in answer.headers["access-control-allow-headers"]
    assert_safe_in_a_browser(answer)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_405(small: Picture, method: str) -> None:
    answer = ask(small.url, method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert answer.json()["status"] == 405
    assert_safe_in_a_browser(answer)


# -- who may ask ---------------------------------------------------------------------------------------


def _flipped(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


@pytest.mark.parametrize("part", ["digest", "seal", "name"])
@pytest.mark.parametrize("how", ["other", "cut", "longer", "upper"])
def test_forged_address_is_missing(small: Picture, part: str, how: str) -> None:
    url = httpx.URL(small.url)
    parts = url.path.split("/")
    place = {"digest": 2, "seal": 3, "name": 4}[part]
    genuine = parts[place]
    parts[place] = {"other": _flipped(genuine), "cut": genuine[:-1], "longer": genuine + "0", "upper": genuine.upper()}[
        how
    ]
    forged = str(url.copy_with(path="/".join(parts)))
    assert forged != small.url
    for headers in ({}, {"If_None_Match": "*"}, {"If_None_Match": small.etag}, {"Range": "bytes=0-1"}):
        assert_missing(ask(forged, **headers))


@pytest.mark.parametrize("credential", [f"Bearer {TOKEN_A}", f"Bearer {TOKEN_B}", "Bearer wrong", "Basic eDp5", "?"])
def test_token_sent_along_is_ignored(small: Picture, credential: str) -> None:
    assert_whole(ask(small.url, Authorization=credential), small)


def test_origin_of_another_site_may_show_the_picture(small: Picture) -> None:
    assert_whole(ask(small.url, Origin="https://example.com"), small)


def test_same_bytes_of_two_callers_have_two_addresses(server: ProxyProcess) -> None:
    given = {"prompt": "shared by chance", "seed": 5, **SMALL}
    runs = server.runs()
    urls = [create(server, given, token).json()["output"][0] for token in (TOKEN_A, TOKEN_B)]
    assert server.runs() == runs + 2
    (first, second) = (httpx.URL(url).path.split("/") for url in urls)
    data = ask(urls[0]).content
    assert ask(urls[1]).content == data
    digest = blake3(data).hexdigest()
    assert first[2] == second[2] == digest
    assert first[3] != second[3]
    assert first[4] == second[4]
    # All that is public about the file, in every place of a seal, opens nothing.
    guesses = [digest[:32], digest[32:], blake3(bytes.fromhex(digest)).hexdigest()[:32], "0" * 32]
    mixed = f"{int(first[3], 16) ^ int(second[3], 16):032x}"
    for guess in [*guesses, mixed, first[3][:16] + second[3][16:], second[3][:16] + first[3][16:]]:
        assert_missing(ask(f"{server.public_url}/outputs/{digest}/{guess}/{first[4]}"))


def test_seal_of_one_file_opens_no_other(pictures: dict[str, Picture]) -> None:
    own, other = (httpx.URL(pictures[name].url) for name in ("small", "large"))
    parts = own.path.split("/")
    parts[3] = other.path.split("/")[3]
    assert_missing(ask(str(own.copy_with(path="/".join(parts)))))


# -- a medium that lies --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("given", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("range_asked", [None, "bytes=0-9"])
def test_damaged_file_is_never_served_and_is_made_anew(
    tmp_path: Path, given: dict[str, Any], range_asked: str | None
) -> None:
    given = {"prompt": "to be damaged", "seed": 3, **given}
    with running_proxy(tmp_path / "data", CONFIG) as proxy:
        url = create(proxy, given).json()["output"][0]
        data = ask(url).content
    path = blob_file(proxy, data)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with running_proxy(tmp_path / "data", CONFIG) as again:
        here = again.public_url + httpx.URL(url).path
        assert_missing(ask(here, **({"Range": range_asked} if range_asked else {})))
        assert_missing(ask(here))
        made = create(again, given)
        assert "; stored" in made.headers["cache-status"]
        assert again.runs() == 1
        assert ask(here).content == data
        assert "; hit" in create(again, given).headers["cache-status"]
