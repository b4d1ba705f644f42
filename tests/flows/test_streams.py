"""Streams through a whole proxy: live on a miss, replayed on a hit, by the address alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from replicate.client import Client

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from proxy.core.sse import Event, Parser
from tests.flows.harness import README_MODEL, SMALL, ProxyProcess, local_config, running_proxy

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

WRITER, GALLERY = "acme/writer", "acme/gallery"


def config(api: FakeModel) -> str:
    origins = f'["{api.delivery_origin}", "{api.stream_origin}"]'
    return (
        f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
        f'output_origins = {origins}\n[cache]\noutput_urls = "url"\n'
    )


class Pair:
    """A proxy and the API behind it."""

    def __init__(self, api: FakeModel, proxy: ProxyProcess) -> None:
        self.api = api
        self.proxy = proxy

    def create(self, model: str, **given: Any) -> httpx.Response:
        """Create without waiting."""
        return httpx.post(
            f"{self.proxy.public_url}/v1/models/{model}/predictions",
            json={"input": {"prompt": "a fox", "seed": 1, **given}},
            headers={"Authorization": f"Bearer {ALICE}"},
            timeout=30,
            trust_env=False,
        )

    def get(self, prediction_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(
            f"{self.proxy.public_url}/v1/predictions/{prediction_id}",
            headers={"Authorization": f"Bearer {ALICE}"},
            trust_env=False,
        ).json()
        return answer

    def cancel(self, prediction_id: str) -> httpx.Response:
        return httpx.post(
            f"{self.proxy.public_url}/v1/predictions/{prediction_id}/cancel",
            headers={"Authorization": f"Bearer {ALICE}"},
            trust_env=False,
        )

    def ended(self, prediction_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            prediction = self.get(prediction_id)
            if prediction["status"] not in ("starting", "processing"):
                return prediction
            time.sleep(0.05)
        raise AssertionError(f"it did not end: {prediction}")

    def until_stored(self) -> None:
        """Wait until no run is on its way: a stream may end before the run is seen to have ended, and is stored."""
        deadline = time.monotonic() + 20
        while httpx.get(f"{self.proxy.admin_url}/_hotplate/status", trust_env=False).json()["runs_in_flight"] > 0:
            assert time.monotonic() < deadline, "a run goes on"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with fake_model() as api, running_proxy(tmp_path_factory.mktemp("streams") / "data", config(api)) as proxy:
        yield Pair(api, proxy)


@pytest.fixture
def pair(both: Pair) -> Iterator[Pair]:
    both.api.reset()
    yield both
    counters = both.api.counters()
    assert counters["stream_credentials"] == counters["output_credentials"] == 0, (
        "a token went where it has no business"
    )
    both.api.reset()


@contextmanager
def reading(url: str, last: str | None = None) -> Iterator[Iterator[Event]]:
    """The events of a stream as they arrive; no credential."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
    with (
        httpx.Client(trust_env=False, timeout=20) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["access-control-allow-origin"] == "*"
        parser = Parser()
        yield (event for chunk in response.iter_raw() for event in parser.feed(chunk))


def told(url: str, last: str | None = None) -> list[Event]:
    with reading(url, last) as events:
        return list(events)


def stream_of(answer: httpx.Response) -> str:
    assert answer.status_code == 201
    url: str = answer.json()["urls"]["stream"]
    return url


def without_pieces(heard: list[tuple[str, str, str]]) -> tuple[list[tuple[str, str]], str]:
    """What a stream said, with its logs in one piece: from progress, they are told as often as they grow."""
    said = [(name, data) for name, _, data in heard if name != "logs"]
    return said, "".join(data for name, _, data in heard if name == "logs")


def outputs(events: list[Event]) -> list[str]:
    return [event.data for event in events if event.name == "output"]


def test_miss_is_told_while_it_runs_and_hit_replays_it(pair: Pair) -> None:
    pair.api.hold()
    made = pair.create(WRITER, prompt="live")
    url = stream_of(made)
    assert re.fullmatch(rf"{re.escape(pair.proxy.public_url)}/v1/streams/[a-z2-7]{{26}}-[0-9a-f]{{32}}", url)
    with reading(url) as events:
        first = next(events)
        assert first.name == "logs"
        assert pair.get(made.json()["id"])["status"] in ("starting", "processing")
        pair.api.release()
        live = [first, *events]
    assert (live[-1].name, live[-1].data) == ("done", "{}")
    prediction = pair.ended(made.json()["id"])
    assert outputs(live) == prediction["output"]
    assert prediction["urls"]["stream"] == url
    hit = pair.create(WRITER, prompt="live")
    assert "; hit" in hit.headers["cache-status"]
    assert stream_of(hit) != url
    assert told(stream_of(hit)) == told(url) == live
    counters = pair.api.counters()
    assert (counters["creates"], counters["stream_opens"]) == (1, 1)


def test_files_are_told_under_addresses_of_the_proxy(pair: Pair) -> None:
    made = pair.create(GALLERY, prompt="files", num_outputs=3)
    url = stream_of(made)
    assert "/v1/files/" in url
    live = told(url)
    assert len(outputs(live)) == 3
    for address in outputs(live):
        assert address.startswith(f"{pair.proxy.public_url}/outputs/")
        assert httpx.get(address, trust_env=False).content.startswith(b"\x89PNG")
    assert pair.ended(made.json()["id"])["output"] == outputs(live)
    hit = pair.create(GALLERY, prompt="files", num_outputs=3)
    assert "; hit" in hit.headers["cache-status"]
    assert pair.ended(hit.json()["id"])["output"] == outputs(live)
    assert told(stream_of(hit)) == live


@pytest.mark.parametrize("model", ["acme/single", "acme/nested"])
def test_other_shapes_are_told_file_by_file(pair: Pair, model: str) -> None:
    made = pair.create(model, prompt="shapes")
    live = told(stream_of(made))
    prediction = pair.ended(made.json()["id"])
    assert outputs(live)
    assert all(address in str(prediction["output"]) for address in outputs(live))
    assert pair.api.delivery_origin not in str(live)
    assert told(stream_of(pair.create(model, prompt="shapes"))) == live


def test_replay_survives_a_restart_and_needs_no_upstream(tmp_path: Path) -> None:
    with fake_model() as api:
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            pair = Pair(api, proxy)
            texts, files = pair.create(WRITER), pair.create(GALLERY)
            ids = [made.json()["id"] for made in (texts, files)]
            tokens = [stream_of(made).removeprefix(proxy.public_url) for made in (texts, files)]
            before = [told(stream_of(made)) for made in (texts, files)]
            for one in ids:
                pair.ended(one)
        settings = config(api)
    with running_proxy(tmp_path / "data", settings) as proxy:
        after = [told(proxy.public_url + token) for token in tokens]
        assert after[0] == before[0]
        assert [(event.id, event.name) for event in after[1]] == [(event.id, event.name) for event in before[1]]
        assert all(address.startswith(proxy.public_url) for address in outputs(after[1]))
        assert told(proxy.public_url + tokens[0], before[0][2].id) == before[0][3:]
        spent = httpx.get(proxy.public_url + tokens[0], headers={"Last-Event-ID": before[0][-1].id}, trust_env=False)
        assert spent.status_code == 204


def test_sharers_of_a_run_share_its_stream(pair: Pair) -> None:
    pair.api.hold()
    first, second = pair.create(WRITER, prompt="shared"), pair.create(WRITER, prompt="shared")
    assert "collapsed" in second.headers["cache-status"]
    assert stream_of(first) != stream_of(second)
    with reading(stream_of(first)) as mine:
        head = next(mine)
        with reading(stream_of(second)) as yours:
            assert next(yours) == head
            pair.api.release()
            assert list(mine) == list(yours)
    assert pair.api.counters()["stream_opens"] == 1


@pytest.mark.parametrize("after", [1, 4])
def test_stream_that_breaks_upstream_goes_on_here_and_its_log_is_not_kept(pair: Pair, after: int) -> None:
    made = pair.create(WRITER, prompt=f"cut {after}", interval=0.05)
    pair.api.fault("cut", on="stream", after=after)
    events = told(stream_of(made))
    prediction = pair.ended(made.json()["id"])
    assert outputs(events) == prediction["output"]
    assert (events[-1].name, events[-1].data) == ("done", "{}")
    assert len({event.id for event in events}) == len(events)
    assert pair.api.counters()["stream_opens"] == 2
    hit = pair.create(WRITER, prompt=f"cut {after}", interval=0.05)
    assert "".join(outputs(told(stream_of(hit)))) == "".join(outputs(events))


def test_stream_that_cannot_be_opened_is_told_from_the_result(pair: Pair) -> None:
    pair.api.fault("status", on="stream", times=0, status=404)
    made = pair.create(WRITER, prompt="refused")
    events = told(stream_of(made))
    assert outputs(events) == pair.ended(made.json()["id"])["output"]
    assert events[-1].name == "done"


def test_failed_and_canceled_ones_say_so(pair: Pair) -> None:
    failed = told(stream_of(pair.create("acme/failing")))
    assert [(event.name, event.data) for event in failed[-2:]] == [
        ("error", '{"detail":"CUDA out of memory"}'),
        ("done", '{"reason":"error"}'),
    ]
    pair.api.hold()
    made = pair.create(WRITER, prompt="canceled")
    with reading(stream_of(made)) as events:
        next(events)
        assert pair.cancel(made.json()["id"]).json()["urls"]["stream"] == stream_of(made)
        assert [event.data for event in events][-1] == '{"reason":"canceled"}'
    assert told(stream_of(made))[-1].data == '{"reason":"canceled"}'


def test_addresses_cannot_be_guessed(pair: Pair) -> None:
    made = pair.create(WRITER, prompt="guess")
    url = stream_of(made)
    for wrong in (url[:-1] + ("0" if url[-1] != "0" else "1"), url.rpartition("-")[0], url + "0"):
        answer = httpx.get(wrong, trust_env=False)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert answer.json() == {"title": "Not found", "detail": "There is no such stream.", "status": 404}
    other_path = url.replace("/v1/streams/", "/v1/files/")
    assert told(other_path) == told(url)


def test_path_of_file_streams_is_still_the_files_api_s(pair: Pair) -> None:
    headers = {"Authorization": f"Bearer {ALICE}"}
    upload = httpx.post(
        f"{pair.api.base_url}/files", files={"content": ("a.txt", b"hello")}, headers=headers, trust_env=False
    ).json()
    through = httpx.get(f"{pair.proxy.public_url}/v1/files/{upload['id']}", headers=headers, trust_env=False)
    assert (through.status_code, through.json()["id"]) == (200, upload["id"])
    assert httpx.get(f"{pair.proxy.public_url}/v1/files/nothing", headers=headers, trust_env=False).status_code == 404


def test_browsers_may_read_a_stream(pair: Pair) -> None:
    url = stream_of(pair.create(WRITER, prompt="browser"))
    asks = {"Origin": "https://page.example", "Access-Control-Request-Headers": "last-event-id"}
    preflight = httpx.options(url, headers=asks, trust_env=False)
    assert preflight.status_code == 204
    assert "last-event-id" in preflight.headers["access-control-allow-headers"].lower()
    assert preflight.headers["access-control-allow-origin"] == "*"
    head = httpx.head(url, trust_env=False)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    refused = httpx.post(url, trust_env=False)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert httpx.get(url, headers={"Authorization": "Bearer anything"}, trust_env=False).status_code == 200


def test_reader_that_leaves_frees_its_place_and_the_run_goes_on(pair: Pair) -> None:
    pair.api.hold()
    made = pair.create(WRITER, prompt="leaves")
    for _ in range(40):  # more than may listen at once
        with reading(stream_of(made)) as events:
            next(events)
        time.sleep(0.01)
    pair.api.release()
    assert pair.ended(made.json()["id"])["status"] == "succeeded"
    assert pair.api.counters()["stream_opens"] == 1


def test_addresses_of_streams_are_not_logged(pair: Pair) -> None:
    url = stream_of(pair.create(WRITER, prompt="quiet"))
    told(url)
    httpx.get(url[:-1], trust_env=False)
    assert url.rpartition("-")[2][:31] not in pair.proxy.log_file.read_text()
    lines = [line for line in pair.proxy.log() if line.get("outcome") == "stream"]
    assert {line["status"] for line in lines} >= {200, 404}


@pytest.mark.parametrize(("model", "count"), [(WRITER, 5), ("acme/caption", 1), (GALLERY, 2)])
def test_python_client_hears_the_same_on_miss_and_hit(pair: Pair, model: str, count: int) -> None:
    """PyPI replicate 1.0.7, unmodified."""
    client = Client(api_token=ALICE, base_url=pair.proxy.public_url)
    given = {"prompt": "python", "seed": 3}
    given |= {WRITER: {"max_tokens": 5}, GALLERY: {"num_outputs": 2}}.get(model, {})
    heard = []
    for _ in range(2):
        events = list(client.stream(model, input=given))
        heard.append([(event.event.value, event.id, str(event.data)) for event in events])
        pair.until_stored()
    client._client.close()
    assert heard[0] == heard[1]
    assert [name for name, _, _ in heard[0] if name == "output"] == ["output"] * count
    assert heard[0][-1][0] == "done"
    assert pair.api.counters()["creates"] == 1


def test_local_model_is_streamed_from_its_progress_and_replayed(tmp_path: Path) -> None:
    with running_proxy(tmp_path / "data", local_config()) as proxy:
        client = Client(api_token="any", base_url=proxy.public_url)
        given = {"prompt": "a streamed lighthouse", **SMALL}
        miss = [(event.event.value, event.id, str(event.data)) for event in client.stream(README_MODEL, input=given)]
        hit = [(event.event.value, event.id, str(event.data)) for event in client.stream(README_MODEL, input=given)]
        client._client.close()
        assert [name for name, _, _ in miss if name != "logs"] == ["output", "done"]
        assert without_pieces(hit) == without_pieces(miss)
        assert proxy.runs() == 1
