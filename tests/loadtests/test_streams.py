"""Streams: server-sent events that can be read late, again, and from the middle."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
from replicate.client import Client

from loadtests.fake_model.process import ALICE, FakeModel
from loadtests.fake_model.streams import write_event
from loadtests.fake_model.world import StreamEvent
from tests.loadtests.harness import create, start, until

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Event:
    kind: str
    id: str
    data: str


def parse(text: str) -> list[Event]:
    """Each event must be whole: a name, an id, and data."""
    events = []
    for block in text.split("\n\n")[:-1]:
        fields = [line.partition(": ")[::2] for line in block.split("\n")]
        (kind,) = [value for name, value in fields if name == "event"]
        (event_id,) = [value for name, value in fields if name == "id"]
        events.append(Event(kind, event_id, "\n".join(value for name, value in fields if name == "data")))
    return events


def told(client: httpx.Client, url: str, last: str | None = None) -> list[Event]:
    answer = client.get(url, headers={"last-event-id": last} if last else {})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parse(answer.text)


def outputs(events: list[Event]) -> list[str]:
    return [each.data for each in events if each.kind == "output"]


@contextmanager
def opened(client: httpx.Client, url: str) -> Iterator[Iterator[str]]:
    with client.stream("GET", url, timeout=5) as answer:
        yield answer.iter_lines()


def read_until(lines: Iterator[str], word: str) -> None:
    assert any(word in line for line in lines), f"the stream ended without {word}"


def hear(client: httpx.Client, url: str, heard: list[str], timeout_s: float) -> None:
    """Read to the end, keeping what came before it broke."""
    with client.stream("GET", url, timeout=timeout_s) as answer:
        heard.extend(answer.iter_text())


def test_files_are_told_by_their_urls_and_done_comes_last(alice: httpx.Client, nobody: httpx.Client) -> None:
    made = create(alice, num_outputs=2)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1/files/[a-z2-7]{4}-[a-z2-7]{52}", made["urls"]["stream"])
    events = told(nobody, made["urls"]["stream"])
    assert outputs(events) == made["output"]
    assert (events[-1].kind, events[-1].data) == ("done", "{}")
    assert "".join(each.data for each in events if each.kind == "logs") == made["logs"]
    assert all(re.fullmatch(r"\d{10}:\d+", each.id) for each in events)
    assert len({each.id for each in events}) == len(events)


def test_text_has_a_stream_of_its_own_kind_and_lines_are_kept(alice: httpx.Client, nobody: httpx.Client) -> None:
    made = create(alice, "acme/writer", seed=1)
    assert "/v1/streams/" in made["urls"]["stream"]
    answer = nobody.get(made["urls"]["stream"])
    assert "data: \ndata: \n" in answer.text
    assert outputs(parse(answer.text)) == made["output"]
    assert any("\n" in part for part in made["output"])
    assert nobody.get(made["urls"]["stream"].replace("/v1/streams/", "/v1/files/")).status_code == 404


@pytest.mark.parametrize("model", ["acme/single", "acme/caption"])
def test_single_output_is_one_event(alice: httpx.Client, nobody: httpx.Client, model: str) -> None:
    made = create(alice, model)
    assert outputs(told(nobody, made["urls"]["stream"])) == [made["output"]]


def test_events_arrive_while_the_model_runs(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    fake.hold()
    made = start(alice, "acme/writer")
    with opened(nobody, made["urls"]["stream"]) as lines:
        read_until(lines, "event: logs")
        assert alice.get(f"/predictions/{made['id']}").json()["status"] == "processing"
        fake.release()
        read_until(lines, "event: output")
        read_until(lines, "event: done")
    assert fake.counters()["stream_opens"] == 1


def test_last_event_id_goes_on_after_it_and_an_unknown_one_from_the_start(
    alice: httpx.Client, nobody: httpx.Client
) -> None:
    url = create(alice, num_outputs=3)["urls"]["stream"]
    events = told(nobody, url)
    for place in range(len(events)):
        assert told(nobody, url, events[place].id) == events[place + 1 :]
    assert told(nobody, url, "1690212292:99") == events


def test_failed_and_canceled_ones_say_so(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    failed = told(nobody, create(alice, "acme/gallery", fail_at=1)["urls"]["stream"])
    assert [(each.kind, each.data) for each in failed[-2:]] == [
        ("error", '{"detail":"CUDA out of memory"}'),
        ("done", '{"reason":"error"}'),
    ]
    fake.hold()
    made = start(alice)
    alice.post(f"/predictions/{made['id']}/cancel")
    assert told(nobody, made["urls"]["stream"])[-1].data == '{"reason":"canceled"}'


def test_files_can_be_told_as_data_uris(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    fake.set_options(is_stream_inline=True)
    made = create(alice)
    (uri,) = outputs(told(nobody, made["urls"]["stream"]))
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == nobody.get(made["output"][0]).content


def test_unknown_streams_are_404_and_no_upload_is_read_as_one(nobody: httpx.Client, fake: FakeModel) -> None:
    for path in ("/v1/files/bcwr-q3v6", "/v1/streams/bcwr-q3v6", "/"):
        assert nobody.get(f"{fake.stream_origin}{path}").status_code == 404


@pytest.mark.parametrize("after", [0, 1, 3])
def test_stream_can_break_in_the_middle(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client, after: int) -> None:
    url = create(alice)["urls"]["stream"]
    fake.fault("cut", "stream", after=after)
    heard: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError):
        hear(nobody, url, heard, 10.0)
    assert len(parse("".join(heard))) == after
    assert told(nobody, url)[-1].kind == "done"


def test_stream_can_fall_silent(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    url = create(alice)["urls"]["stream"]
    fake.fault("hang", "stream", after=2)
    heard: list[str] = []
    with pytest.raises(httpx.ReadTimeout):
        hear(nobody, url, heard, 1.0)
    assert len(parse("".join(heard))) == 2


def test_stream_can_be_refused(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    url = create(alice)["urls"]["stream"]
    fake.fault("status", "stream", status=503)
    assert nobody.get(url).status_code == 503
    assert nobody.get(url).status_code == 200


def test_tokens_brought_to_the_streams_are_counted(alice: httpx.Client, fake: FakeModel) -> None:
    alice.get(create(alice)["urls"]["stream"])
    assert fake.counters()["stream_credentials"] == 1


def test_reader_that_leaves_does_not_disturb_the_run(
    alice: httpx.Client, fake: FakeModel, nobody: httpx.Client
) -> None:
    fake.hold()
    made = start(alice, "acme/gallery")
    with opened(nobody, made["urls"]["stream"]) as lines:
        read_until(lines, "event: logs")
    fake.release()
    until(lambda: alice.get(f"/predictions/{made['id']}").json()["status"] == "succeeded")


def test_real_client_streams_text(fake: FakeModel) -> None:
    client = Client(api_token=ALICE, base_url=fake.base_url.removesuffix("/v1"))
    events = list(client.stream("acme/writer", input={"prompt": "x", "seed": 1, "max_tokens": 6}))
    assert [str(each.event.value) for each in events if each.event.value != "logs"] == ["output"] * 6 + ["done"]
    client._client.close()


def test_event_of_several_lines_has_a_data_field_for_each() -> None:
    event = StreamEvent("1:0", "output", None)
    assert write_event(event, "a\n\nb") == b"event: output\nid: 1:0\ndata: a\ndata: \ndata: b\n\n"
    assert write_event(event, "{}") == b"event: output\nid: 1:0\ndata: {}\n\n"
