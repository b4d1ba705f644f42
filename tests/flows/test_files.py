"""Uploads through whole proxies: passed on to an API that has accounts, or kept here; and one key for one file."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import replicate
from PIL import Image

from loadtests.fake_model.process import ALICE, BOB, fake_model
from tests.flows.harness import ProxyProcess, local_config, running_proxy
from tests.flows.test_replicate_upstream import Pair, config

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

RESTYLE = "/v1/models/acme/restyle/predictions"
MIB = 1024**2


def picture(color: str = "red", size: int = 16) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (size, size), color).save(body, "PNG")
    return body.getvalue()


class Host(ThreadingHTTPServer):
    """Somebody else's files, by path; strong ETags; counts what it was asked and what it sent."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str | None] = []
        self.sent = 0
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        condition = self.headers.get("If-None-Match")
        self.server.asked.append(condition)
        data = self.server.files.get(self.path)
        etag = f'"{hashlib.sha256(data or b"").hexdigest()}"'
        status = 404 if data is None else 304 if condition == etag else 200
        self.send_response(status)
        self.send_header("ETag", etag)
        body = data if status == 200 and data is not None else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += len(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    serving = threading.Thread(target=host.serve_forever)
    serving.start()
    yield host
    host.shutdown()
    serving.join()
    host.server_close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Iterator[Pair]:
    with fake_model() as api:
        settings = f'input_origins = ["{host.origin}"]\n' + config(api).partition("\n")[2]
        settings = "[[upstream]]\n" + settings
        with running_proxy(tmp_path_factory.mktemp("files") / "data", settings) as proxy:
            yield Pair(api, proxy)


@pytest.fixture
def pair(both: Pair, host: Host) -> Iterator[Pair]:
    both.api.reset()
    host.asked.clear()
    host.sent = 0
    yield both
    assert both.api.counters()["output_credentials"] == 0, "a token was sent to the host of the outputs"
    both.api.reset()


def upload(url: str, data: Any, token: str | None = ALICE, name: str = "in.png", **fields: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/files",
        files={"content": (name, data, "image/png")},
        data=fields,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=60,
        trust_env=False,
    )


def uploaded(pair: Pair, data: bytes, token: str = ALICE) -> str:
    answer = upload(pair.proxy.public_url, data, token)
    assert answer.status_code == 201
    url: str = answer.json()["urls"]["get"]
    return url


def edit(pair: Pair, image: str, prompt: str = "x", **how: Any) -> httpx.Response:
    return pair.post(RESTYLE, {"input": {"image": image, "prompt": prompt}}, **how)


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def status(answer: httpx.Response) -> str:
    return answer.headers["cache-status"]


# -- one key for one file ------------------------------------------------------------------------------


def source(pair: Pair, size_bytes: int) -> str:
    """The address of an earlier output of that length."""
    given = {"prompt": "source", "seed": 1, "size_bytes": size_bytes}
    address: str = pair.post("/v1/models/acme/film/predictions", {"input": given}).json()["output"]
    assert address.startswith(f"{pair.proxy.public_url}/outputs/")
    return address


SIZES = pytest.mark.parametrize("size_bytes", [1000, 300_000], ids=["inline", "uploaded"])


@SIZES
def test_same_bytes_are_one_key_by_whatever_name_they_come(pair: Pair, host: Host, size_bytes: int) -> None:
    output = source(pair, size_bytes)
    data = httpx.get(output, trust_env=False).content
    host.files["/a.png"] = data
    pair.api.reset()
    first = edit(pair, uploaded(pair, data), f"four names {size_bytes}")
    assert first.json()["status"] == "succeeded"
    assert "stored" in status(first)
    for name in (uploaded(pair, data), data_url(data), output, f"{host.origin}/a.png"):
        again = edit(pair, name, f"four names {size_bytes}")
        assert "; hit" in status(again)
        assert again.json()["output"] == first.json()["output"]
        assert again.json()["input"]["image"] == name
    other = edit(pair, uploaded(pair, picture("blue")), f"four names {size_bytes}")
    assert other.json()["output"] != first.json()["output"]
    assert pair.api.counters()["runs"] == {"acme/restyle": 2}


@SIZES
@pytest.mark.parametrize("kind", ["upload", "data", "output", "remote"])
def test_upstream_can_read_a_file_by_whatever_name_it_came(pair: Pair, host: Host, kind: str, size_bytes: int) -> None:
    data = picture("green") + bytes(size_bytes)
    host.files["/b.png"] = data
    name = {
        "upload": lambda: uploaded(pair, data),
        "data": lambda: data_url(data),
        "output": lambda: source(pair, size_bytes),
        "remote": lambda: f"{host.origin}/b.png",
    }[kind]()
    answer = edit(pair, name, f"read {kind} {size_bytes}")
    assert (answer.json()["status"], answer.json()["error"]) == ("succeeded", None)
    assert "stored" in status(answer)
    sent = pair.api.counters()["last_create"]["body"]["input"]["image"]
    assert pair.proxy.public_url not in sent
    assert host.origin not in sent
    assert pair.api.counters()["input_fetches"] == 0


def test_community_version_meets_in_one_key_from_the_first_remote_url_on(pair: Pair, host: Host) -> None:
    data = picture("orange")
    host.files["/c.png"] = data
    direct = httpx.get(
        f"{pair.api.base_url}/models/painters/retouch", headers={"Authorization": f"Bearer {ALICE}"}, trust_env=False
    )
    version = f"painters/retouch:{direct.json()['latest_version']['id']}"
    for count, name in enumerate(
        (f"{host.origin}/c.png", f"{host.origin}/c.png", data_url(data), uploaded(pair, data))
    ):
        answer = pair.post("/v1/predictions", {"version": version, "input": {"image": name}})
        assert answer.json()["status"] == "succeeded"
        assert ("; hit" in status(answer)) is (count > 0)
    assert pair.api.counters()["runs"] == {"painters/retouch": 1}


def test_official_client_s_file_objects_make_one_run(pair: Pair) -> None:
    client = replicate.Client(api_token=ALICE, base_url=pair.proxy.public_url)
    outputs = []
    for name in ("one.png", "two.png"):
        image = io.BytesIO(picture("maroon"))
        image.name = name
        outputs.append(client.run("acme/restyle", input={"image": image, "prompt": "by the client"}))
    assert str(outputs[0]) == str(outputs[1])
    created = client.files.create(io.BytesIO(picture("maroon")), metadata={"a": 1})
    assert client.files.get(created.id).checksums["sha256"] == hashlib.sha256(picture("maroon")).hexdigest()
    client.files.delete(created.id)
    client._client.close()  # it leaves its connections to the collector
    assert pair.api.counters()["runs"] == {"acme/restyle": 1}


def test_key_is_explained_with_places_and_digests(pair: Pair) -> None:
    explained = httpx.post(
        f"{pair.proxy.admin_url}/_hotplate/explain",
        json={"version": "acme/restyle", "input": {"image": data_url(picture())}},
        headers={"X-Explain-Authorization": f"Bearer {ALICE}"},
        trust_env=False,
    ).json()
    assert explained["normalised"] == {"image": None}
    assert [file["place"] for file in explained["files"]] == ["image"]
    assert len(explained["files"][0]["digest"]) == 64


# -- somebody else's files -----------------------------------------------------------------------------


def test_remote_file_is_asked_about_and_not_read_again(pair: Pair, host: Host) -> None:
    host.files["/d.png"] = picture("purple")
    for count in range(3):
        answer = edit(pair, f"{host.origin}/d.png", "revalidated")
        assert ("; hit" in status(answer)) is (count > 0)
    assert host.sent == len(host.files["/d.png"])
    assert len(host.asked) == 3
    assert None not in host.asked[1:]


def test_changed_remote_file_is_another_picture(pair: Pair, host: Host) -> None:
    url = f"{host.origin}/e.png"
    host.files["/e.png"] = picture("black")
    first = edit(pair, url, "changing")
    host.files["/e.png"] = picture("white")
    second = edit(pair, url, "changing")
    host.files["/e.png"] = picture("black")
    third = edit(pair, url, "changing")
    assert "hit" not in status(second)
    assert second.json()["output"] != first.json()["output"]
    assert "; hit" in status(third)
    assert third.json()["output"] == first.json()["output"]


def test_identical_requests_for_a_remote_file_make_one_run(pair: Pair, host: Host) -> None:
    host.files["/f.png"] = picture("cyan")
    pair.api.hold()
    answers: list[httpx.Response] = []

    def ask_once() -> None:
        answers.append(edit(pair, f"{host.origin}/f.png", "together"))

    threads = [threading.Thread(target=ask_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    pair.api.release()
    for thread in threads:
        thread.join()
    assert len({answer.json()["output"] for answer in answers}) == 1
    assert pair.api.counters()["runs"] == {"acme/restyle": 1}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.png", "https://127.0.0.1/x.png", "https://localhost/x.png"])
def test_private_address_is_not_asked_and_the_input_goes_past_the_cache(pair: Pair, host: Host, url: str) -> None:
    answer = edit(pair, url, "private")
    assert status(answer) == "Hotplate; fwd=bypass; detail=unread-file"
    assert pair.api.counters()["last_create"]["body"]["input"]["image"] == url


def test_url_in_a_prompt_still_goes_past_the_cache(pair: Pair, host: Host) -> None:
    host.files["/g.png"] = picture()
    answer = edit(pair, f"{host.origin}/g.png", f"like {host.origin}/g.png")
    assert status(answer) == "Hotplate; fwd=bypass; detail=url-input"
    assert host.asked == [None]  # by the model service alone


def test_nothing_is_fetched_for_a_token_that_is_no_good(pair: Pair, host: Host) -> None:
    host.files["/h.png"] = picture()
    refused = edit(pair, f"{host.origin}/h.png", "stranger", token="r8_nobody_nobody_nobody")
    assert refused.status_code == 401
    assert host.asked == []


# -- uploads at the upstream ---------------------------------------------------------------------------


def test_file_object_is_the_upstream_s_with_addresses_here(pair: Pair) -> None:
    data = picture("navy")
    answer = upload(pair.proxy.public_url, data, name="a cat.png", metadata='{"url": "https://example.com/"}')
    file = answer.json()
    assert answer.headers["cache-control"] == "private, no-store"
    assert file["checksums"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert (file["name"], file["size"], file["content_type"]) == ("a cat.png", len(data), "image/png")
    assert file["metadata"] == {"url": "https://example.com/"}
    assert file["urls"]["get"] == f"{pair.proxy.public_url}/v1/files/{file['id']}"
    assert pair.get(f"/v1/files/{file['id']}").json() == pair.get(f"/files/{file['id']}").json() == file
    listed = pair.get("/v1/files").json()
    assert listed["results"][0] == file
    assert pair.api.base_url not in str(listed)


def test_pages_of_files_lead_through_the_proxy(pair: Pair) -> None:
    pair.api.set_options(page_size=2)
    for color in ("red", "green", "blue"):
        uploaded(pair, picture(color))
    page = pair.get("/v1/files").json()
    assert page["next"].startswith(f"{pair.proxy.public_url}/v1/files?")
    following = httpx.get(page["next"], headers={"Authorization": f"Bearer {ALICE}"}, trust_env=False).json()
    assert following["results"]
    assert following["previous"].startswith(f"{pair.proxy.public_url}/v1/files")


def test_another_account_cannot_see_or_use_a_file(pair: Pair) -> None:
    data = picture("gold")
    mine = uploaded(pair, data)
    file_id = mine.rpartition("/")[2]
    assert edit(pair, mine, "mine").json()["status"] == "succeeded"
    assert pair.get(f"/v1/files/{file_id}", token=BOB).status_code == 404
    assert file_id not in str(pair.get("/v1/files", token=BOB).json())
    theirs = edit(pair, mine, "mine", token=BOB)
    assert theirs.json()["status"] == "failed"
    assert status(theirs) == "Hotplate; fwd=bypass; detail=url-input"
    delete = httpx.delete(mine, headers={"Authorization": f"Bearer {BOB}"}, trust_env=False)
    assert delete.status_code == 404
    assert "; hit" in status(edit(pair, mine, "mine"))


def test_deleted_file_is_gone_and_its_results_stay(pair: Pair) -> None:
    data = picture("pink")
    url = uploaded(pair, data)
    assert edit(pair, url, "deleted").json()["status"] == "succeeded"
    delete = httpx.delete(url, headers={"Authorization": f"Bearer {ALICE}"}, trust_env=False)
    assert (delete.status_code, delete.content) == (204, b"")
    assert pair.get(url.removeprefix(pair.proxy.public_url)).status_code == 404
    assert edit(pair, url, "deleted").json()["status"] == "failed"
    assert "; hit" in status(edit(pair, data_url(data), "deleted"))


def test_upload_over_the_limit_is_refused_in_the_upstream_s_words(pair: Pair) -> None:
    pair.api.set_options(max_file_bytes=MIB)
    answer = upload(pair.proxy.public_url, bytes(3 * MIB))
    assert answer.status_code == 413
    assert answer.json()["detail"] == "Files must be less than 1MB in size"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("token", [None, "r8_nobody_nobody_nobody"])
def test_upload_needs_a_credential(pair: Pair, token: str | None) -> None:
    assert upload(pair.proxy.public_url, picture(), token).status_code == 401


def test_client_that_breaks_off_leaves_nothing(pair: Pair) -> None:
    before = pair.get("/v1/files").json()["results"]
    break_off(pair.proxy, ALICE)
    time.sleep(0.5)
    assert pair.get("/v1/files").json()["results"] == before
    assert pair.api.counters().get("upload_bytes", 0) == 0
    assert httpx.get(f"{pair.proxy.admin_url}/readyz", trust_env=False).status_code == 200


def break_off(proxy: ProxyProcess, token: str) -> None:
    """Announce an upload of 10 MB and leave after 2."""
    url = httpx.URL(proxy.public_url)
    with socket.create_connection((url.host, url.port or 80)) as client:
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {10 * MIB}\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="content"; filename="x"\r\n\r\n'
        )
        client.sendall(head.encode() + bytes(2 * MIB))


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


class Zeros(io.RawIOBase):
    """So many bytes, none of them held."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = self._left_bytes = size_bytes

    def read(self, size: int = -1) -> bytes:
        part = min(self._left_bytes, size if size >= 0 else self._left_bytes)
        self._left_bytes -= part
        return bytes(part)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._left_bytes = 0 if whence == 2 else self._size_bytes - offset
        return self._size_bytes - self._left_bytes

    def tell(self) -> int:
        return self._size_bytes - self._left_bytes


def test_large_upload_does_not_grow_the_proxy(pair: Pair) -> None:
    uploaded(pair, picture())
    before = rss_mib(pair.proxy.pid)
    answer = upload(pair.proxy.public_url, Zeros(100 * MIB))
    assert answer.status_code == 201
    assert answer.json()["size"] == 100 * MIB
    assert rss_mib(pair.proxy.pid) - before < 40


def test_upload_in_chunks_of_unknown_length_passes(pair: Pair) -> None:
    data = picture("lime", 400) + bytes(200_000)
    request = httpx.Request("POST", "http://x/", files={"content": ("in.png", data, "image/png")})
    body = request.read()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    headers = {"Authorization": f"Bearer {ALICE}", "Content-Type": request.headers["content-type"]}
    answer = httpx.post(f"{pair.proxy.public_url}/v1/files", content=pieces(), headers=headers, trust_env=False)
    assert answer.json()["checksums"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert edit(pair, answer.json()["urls"]["get"], "chunked").json()["status"] == "succeeded"
    assert "; hit" in status(edit(pair, data_url(data), "chunked"))


# -- uploads that are kept here ------------------------------------------------------------------------

MINE, YOURS = "mine-mine-mine-mine", "yours-yours-yours-yours"


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    settings = f'{local_config()}[auth]\ntokens = ["{MINE}", "{YOURS}"]\n'
    with running_proxy(tmp_path_factory.mktemp("own-files") / "data", settings) as proxy:
        yield proxy


def ask(proxy: ProxyProcess, method: str, path: str, token: str = MINE) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.request(method, proxy.public_url + path, headers=headers, timeout=60, trust_env=False)


def test_own_file_has_the_same_shape_and_belongs_to_its_token(cog: ProxyProcess) -> None:
    data = picture("teal")
    file = upload(cog.public_url, data, MINE, name="é.png", metadata='{"a": 1}').json()
    assert (file["name"], file["size"], file["content_type"], file["metadata"]) == (
        "é.png",
        len(data),
        "image/png",
        {"a": 1},
    )
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert file["checksums"] == {"sha256": hashlib.sha256(data).hexdigest(), "md5": md5}
    path = f"/v1/files/{file['id']}"
    assert file["urls"]["get"] == cog.public_url + path
    assert ask(cog, "GET", path).json() == file
    assert ask(cog, "GET", "/files").json()["results"][0] == file
    download = ask(cog, "GET", f"{path}/download")
    assert (download.content, download.headers["content-disposition"]) == (data, "attachment")
    for method, below in (("GET", ""), ("GET", "/download"), ("DELETE", "")):
        refused = ask(cog, method, path + below, YOURS)
        assert (refused.status_code, refused.json()["detail"]) == (404, "File not found")
    assert file["id"] not in ask(cog, "GET", "/v1/files", YOURS).text
    assert ask(cog, "GET", path, "nobody-nobody-nobody").status_code == 401
    assert ask(cog, "DELETE", path).status_code == 204
    assert ask(cog, "GET", path).status_code == 404


def test_own_upload_that_is_no_upload_is_told(cog: ProxyProcess) -> None:
    headers = {"Authorization": f"Bearer {MINE}"}
    url = f"{cog.public_url}/v1/files"
    missing = httpx.post(url, files={"other": b"x"}, headers=headers, trust_env=False)
    assert (missing.status_code, missing.json()["invalid_fields"][0]["field"]) == (422, "content")
    assert upload(cog.public_url, b"x", MINE, metadata="[1]").status_code == 422
    assert upload(cog.public_url, b"x", MINE, filename="é" * 200).status_code == 422
    assert httpx.post(url, json={}, headers=headers, trust_env=False).status_code == 415


@pytest.mark.parametrize("size_bytes", [101 * MIB, 100 * MIB + 1], ids=["announced", "found"])
def test_own_upload_over_the_limit_is_refused_and_the_proxy_does_not_grow(cog: ProxyProcess, size_bytes: int) -> None:
    upload(cog.public_url, picture(), MINE)
    before = rss_mib(cog.pid)
    answer = upload(cog.public_url, Zeros(size_bytes), MINE)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "Files must be less than 100MB in size"
    assert rss_mib(cog.pid) - before < 40


def test_own_client_that_breaks_off_leaves_nothing(cog: ProxyProcess) -> None:
    before = ask(cog, "GET", "/v1/files").json()
    break_off(cog, MINE)
    time.sleep(0.3)
    assert ask(cog, "GET", "/v1/files").json() == before
    assert not list((cog.data_dir / "tmp").iterdir())


def test_own_files_stay_over_a_restart(tmp_path: Path) -> None:
    data = picture("olive")
    settings = local_config()
    with running_proxy(tmp_path / "data", settings) as proxy:
        file = upload(proxy.public_url, data, None).json()
    with running_proxy(tmp_path / "data", settings) as proxy:
        again = httpx.get(f"{proxy.public_url}/v1/files/{file['id']}", trust_env=False).json()
        assert again["checksums"] == file["checksums"]


# -- both kinds at once --------------------------------------------------------------------------------


def test_upload_that_went_upstream_can_be_read_by_a_model_here(tmp_path: Path) -> None:
    data = picture("coral")
    with fake_model() as api:
        settings = f"{local_config()}{config(api)}"
        with running_proxy(tmp_path / "data", settings) as proxy:
            file = upload(proxy.public_url, data).json()
            given = {"prompt": "a red fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 1}
            answers = [
                httpx.post(
                    f"{proxy.public_url}/v1/models/hotplate/demo/predictions",
                    json={"input": {**given, "image": image}},
                    headers={"Prefer": "wait", "Authorization": f"Bearer {ALICE}"},
                    timeout=110,
                    trust_env=False,
                )
                for image in (file["urls"]["get"], data_url(data))
            ]
            assert answers[0].json()["status"] == "succeeded"
            assert "; hit" in status(answers[1])
            assert httpx.get(f"{proxy.public_url}/v1/files", trust_env=False).json()["results"] == []
            pair = Pair(api, proxy)
            assert edit(pair, file["urls"]["get"], "both").json()["status"] == "succeeded"
            delete = httpx.delete(file["urls"]["get"], headers={"Authorization": f"Bearer {ALICE}"}, trust_env=False)
            assert delete.status_code == 204
