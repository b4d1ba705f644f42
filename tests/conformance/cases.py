"""The cases: what is asked, what must be true of the answer, and how many runs of models it may have cost.

A case is a function of a ``Bench``. It asserts what it can know by itself and returns what it saw; the suite compares
that between the API itself, a miss and a hit. The decorator names the modes in which a case makes sense, each with the
runs that the API may have counted: for a hit that is none, unless the case says why.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.conformance.bench import Bench, Mode, Unsupported, digests, files_in, settled
from tests.conformance.receiver import Delivery
from tests.conformance.repertoire import version_of
from tests.conformance.world import POOR, WRONG, lister

DELIVERY_TIMEOUT_S = 10.0
QUIET_S = 0.3
"""How long nothing more may come after the last delivery."""

LOW_WAIT_S = 1
SLOW_S = 2
LONG_S = 4
FILM_BYTES = 3_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        title: for the page, after "A client can …".
        runs: how many runs each mode may cost; a mode that is missing makes no sense.
    """

    name: str
    title: str
    do: Callable[[Bench], Any]
    runs: dict[Mode, int]


CASES: dict[str, Case] = {}


def case(title: str, **runs: int) -> Callable[[Callable[[Bench], Any]], Callable[[Bench], Any]]:
    """Make a function a case; the keywords are modes and their runs."""

    def register(do: Callable[[Bench], Any]) -> Callable[[Bench], Any]:
        name = do.__name__.replace("_", "-")
        CASES[name] = Case(name, title, do, dict(runs))  # type: ignore[arg-type]
        return do

    return register


# --- running ---


@case("run a model that gives a list of files", direct=1, miss=1, hit=0)
def run_files(bench: Bench) -> Any:
    bench.needs("files")
    output = bench.ask("run", **bench.models.list_of(2, bench.given()))["output"]
    assert files_in(output), output
    return output


@case("run a model that gives one file", direct=1, miss=1, hit=0)
def run_file(bench: Bench) -> Any:
    bench.needs("files")
    output = bench.ask("run", **bench.models.file(bench.given()))["output"]
    assert len(files_in(output)) == 1
    return output


@case("run a model that gives an object with files inside", direct=1, miss=1, hit=0)
def run_nested(bench: Bench) -> Any:
    bench.needs("files", "objects")
    output = bench.ask("run", **bench.models.nested(bench.given()))["output"]
    assert len(files_in(output)) == 2
    return output


@case("run a model that gives a video of three megabytes", direct=1, miss=1, hit=0)
def run_film(bench: Bench) -> Any:
    """The AI SDK makes videos by another way, which polls."""
    bench.needs("videos")
    output = bench.ask("run", **bench.models.film(FILM_BYTES, bench.given()), media="video")["output"]
    assert [each["size"] for each in files_in(output)] == [FILM_BYTES]
    return output


@case("run a model that writes piece by piece", direct=1, miss=1, hit=0)
def run_text(bench: Bench) -> Any:
    bench.needs("text")
    output = bench.ask("run", **bench.text())["output"]
    text = output if isinstance(output, str) else "".join(output)
    assert len(text.split()) >= 3
    return output


@case("run a model that gives one string", direct=1, miss=1, hit=0)
def run_string(bench: Bench) -> Any:
    bench.needs("text")
    if not bench.client.has_seeds:
        raise Unsupported("no seed reaches the model, whose text is another each time")
    output = bench.ask("run", **bench.models.string(bench.given()))["output"]
    assert isinstance(output, str)
    assert bench.case in output
    return output


@case("run a community model by its version", direct=1, miss=1, hit=0)
def run_version(bench: Bench) -> Any:
    bench.needs("files")
    reference = f"painters/brush:{version_of('painters/brush')}"
    output = bench.ask("run", model=reference, input=bench.given())["output"]
    assert len(files_in(output)) == 1
    return output


@case("run a model without holding the request, polling instead", direct=1, miss=1, hit=0)
def run_polling(bench: Bench) -> Any:
    output = bench.ask("run", **bench.plain(), wait={"mode": "poll"})["output"]
    assert output
    return output


@case("run a model that takes longer than its first answer", direct=1, miss=1, hit=0)
def run_slow(bench: Bench) -> Any:
    bench.needs("files")
    output = bench.ask("run", **bench.models.slow(1, bench.given()))["output"]
    assert len(files_in(output)) == 1
    return output


@case("run a model asynchronously", direct=1, miss=1, hit=0)
def run_async(bench: Bench) -> Any:
    return bench.ask("run_async", **bench.plain())["output"]


@case("run a deployment", direct=1, miss=1, hit=0)
def run_deployment(bench: Bench) -> Any:
    return _polled(bench, deployment="acme/pixel-live", input=bench.given())


# --- predictions ---


def _polled(bench: Bench, **asked: Any) -> Any:
    seen = bench.ask("create_and_poll", **asked)
    assert seen["final_status"] == "succeeded"
    assert seen["has_logs"]
    assert len(files_in(seen["output"])) == 1
    first = seen.pop("first_status")
    assert first in (("starting", "processing", "succeeded") if bench.mode == "hit" else ("starting", "processing"))
    return seen


@case("create a prediction of an official model and poll it", direct=1, miss=1, hit=0)
def poll_model(bench: Bench) -> Any:
    return _polled(bench, **bench.models.list_of(1, bench.given()))


@case("create a prediction of a version and poll it", direct=1, miss=1, hit=0)
def poll_version(bench: Bench) -> Any:
    return _polled(bench, version=bench.world.a_version(), input=bench.given())


@case("hold a create until the output is there", direct=1, miss=1, hit=0)
def wait_in_time(bench: Bench) -> Any:
    seen = bench.ask("create_wait", **bench.models.list_of(1, bench.given()), wait_s=10)
    assert seen["status"] == "succeeded"
    assert len(files_in(seen["output"])) == 1
    return seen


@case("hold a create for less time than the model takes", direct=1, miss=1, hit=0)
def wait_runs_out(bench: Bench) -> Any:
    """Clients go on polling only where it says ``starting``; afterwards the result is there for the next."""
    if bench.mode == "hit":
        time.sleep(SLOW_S - LOW_WAIT_S + 1.0)
    seen = bench.ask("create_wait", **bench.models.slow(SLOW_S, bench.given()), wait_s=LOW_WAIT_S)
    if bench.mode == "hit":
        assert seen["status"] == "succeeded"
        assert len(files_in(seen["output"])) == 1
    else:
        assert seen == {"status": "starting", "output": None}
    return None


@case("list predictions page by page, newest first, and get one of them", direct=3, miss=3, hit=0)
def listing(bench: Bench) -> Any:
    token = lister(bench.client.name, bench.side)
    before = bench.ask("pages", token)["ids"]
    outputs = [
        bench.ask("run", token, **bench.models.list_of(1, bench.given(f"number {number}")))["output"]
        for number in range(3)
    ]
    pages = bench.ask("pages", token)
    assert pages["ids"][3:] == before
    new = pages["ids"][:3]
    assert len(set(new)) == 3
    assert bench.ask("list", token)["ids"][:3] == new
    got = [bench.ask("get", token, id=each) for each in new]
    assert [each["status"] for each in got] == ["succeeded"] * 3
    assert [digests(each["output"]) for each in got] == [digests(each) for each in reversed(outputs)]
    if bench.world.has_accounts:
        assert bench.ask_error("get", id=new[0])["status"] == 404, "another account must not see it"
    return {"outputs": outputs, "fields": got[0]["fields"]}


# --- streams ---


@case("stream a text", direct=1, miss=1, hit=0)
def stream_text(bench: Bench) -> Any:
    bench.needs("text")
    events = bench.ask("stream", **bench.text())["events"]
    text = "".join(data for event, data in events if event == "output")
    assert len(text.split()) >= 3
    return {"text": text, "kinds": sorted({event for event, _ in events})}


@case("stream files as they are made", direct=1, miss=1, hit=0)
def stream_files(bench: Bench) -> Any:
    bench.needs("files")
    events = bench.ask("stream", **bench.models.growing(3, bench.given()))["events"]
    files = [data for event, data in events if event == "output"]
    assert len(files_in(files)) == 3
    return {"files": files, "kinds": sorted({event for event, _ in events})}


# --- ending early ---


@case("cancel a prediction", direct=1, miss=1, hit=1)
def cancel(bench: Bench) -> Any:
    """A hit is over before it can be cancelled: what is asked of it is that cancelling does no harm."""
    if bench.mode == "hit":
        asked = bench.models.list_of(1, bench.given())
        bench.ask("run", **asked)
        assert bench.ask("cancel", **asked)["status"] == "succeeded"
        return None
    before = bench.world.cancels()
    assert bench.ask("cancel", **bench.models.slow(30, bench.given()))["status"] == "canceled"
    assert eventually(lambda: bench.world.cancels() > before), "the run goes on"
    return None


@case("cancel one of two predictions that share a run", direct=2, miss=1)
def cancel_one_of_two(bench: Bench) -> Any:
    asked = bench.models.slow(SLOW_S, bench.given())
    with bench.world.http(bench.side) as http:
        created = http.post(f"/v1/models/{asked['model']}/predictions", json={"input": asked["input"]})
        other = created.raise_for_status().json()
        assert bench.ask("cancel", **asked)["status"] == "canceled"

        def status() -> str:
            return str(http.get(f"/v1/predictions/{other['id']}").raise_for_status().json()["status"])

        assert eventually(lambda: status() not in ("starting", "processing"))
        assert status() == "succeeded"
    return None


@case("join a run that another client holds its request for, without being held too", direct=2, miss=1)
def join_a_held_run(bench: Bench) -> Any:
    """A create that does not ask to wait is answered at once, whatever those who share its run have asked for."""
    asked = bench.models.slow(LONG_S, bench.given())
    with bench.world.http(bench.side) as http, ThreadPoolExecutor(1) as threads:
        held = threads.submit(
            http.post,
            f"/v1/models/{asked['model']}/predictions",
            json={"input": asked["input"]},
            headers={"Prefer": "wait=30"},
        )
        time.sleep(QUIET_S)
        began = time.monotonic()
        assert bench.ask("cancel", **asked)["status"] == "canceled"
        took_s = time.monotonic() - began
        assert held.result().raise_for_status().json()["status"] == "succeeded"
    assert took_s < LONG_S / 2, f"it was held for {took_s:.1f} s"
    return None


@case("give a prediction a deadline", direct=1, miss=1, hit=1)
def deadline(bench: Bench) -> Any:
    """Five seconds is the shortest that the API takes. A hit is always in time."""
    if bench.mode == "hit":
        asked = bench.models.list_of(1, bench.given())
        bench.ask("run", **asked)
        seen = bench.ask("deadline", **asked, cancel_after="5s")
        assert seen["status"] == "succeeded"
        return None
    seen = bench.ask("deadline", **bench.models.slow(12, bench.given()), cancel_after="5s")
    assert seen["status"] == "canceled"
    return None


# --- files as inputs ---


def _restyled(bench: Bench, how: str) -> Any:
    asked = bench.models.restyle(bench.given())
    output = bench.ask("file_input", **asked, field="image", path=bench.file(), how=how)["output"]
    assert len(files_in(output)) == 1
    return output


@case("give a file that is uploaded first", direct=1, miss=1, hit=0)
def file_uploaded(bench: Bench) -> Any:
    return _restyled(bench, "upload")


@case("give a file as a data URI", direct=1, miss=1, hit=0)
def file_as_data_uri(bench: Bench) -> Any:
    return _restyled(bench, "data_uri")


@case("give a Buffer", direct=1, miss=1, hit=0)
def file_as_buffer(bench: Bench) -> Any:
    return _restyled(bench, "buffer")


@case("give a Blob", direct=1, miss=1, hit=0)
def file_as_blob(bench: Bench) -> Any:
    return _restyled(bench, "blob")


@case("give the same bytes once uploaded and once as a data URI: one run for both", direct=2, miss=1, hit=0)
def file_both_ways(bench: Bench) -> Any:
    uploaded, inline = _restyled(bench, "upload"), _restyled(bench, "data_uri")
    assert uploaded == inline
    return uploaded


@case("give the output of one model to another", direct=2, miss=2, hit=0)
def output_as_input(bench: Bench) -> Any:
    second = bench.models.restyle(bench.given("second"))
    output = bench.ask(
        "output_as_input",
        **bench.models.file(bench.given()),
        second_model=second["model"],
        second_input=second["input"],
        field="image",
    )["output"]
    assert len(files_in(output)) == 1
    return output


# --- webhooks ---


@case("be told of the end by a signed webhook", direct=1, miss=1, hit=0)
def webhook(bench: Bench) -> Any:
    path, url = _hook(bench)
    asked = bench.models.list_of(1, bench.given())
    created = bench.ask("webhook", **asked, webhook_url=url, events=["completed"])
    deliveries = _deliveries(bench, path)
    assert len(deliveries) == 1
    body = json.loads(deliveries[0].body)
    assert (body["id"], body["status"]) == (created["id"], "succeeded")
    assert _is_valid(bench, deliveries[0])
    assert not _is_valid(bench, Delivery(deliveries[0].headers, deliveries[0].body.replace("succeeded", "succeedeD")))
    fields = sorted(body.keys() - {"webhook", "webhook_events_filter"})
    return {"files": [_sha256_of(bench, each) for each in body["output"]], "fields": fields}


@case("be told of every event by signed webhooks", direct=1, miss=1, hit=0)
def webhook_of_every_event(bench: Bench) -> Any:
    path, url = _hook(bench)
    created = bench.ask(
        "webhook",
        **bench.models.growing(2, bench.given()),
        webhook_url=url,
        events=["start", "output", "logs", "completed"],
    )
    deliveries = _deliveries(bench, path)
    bodies = [json.loads(each.body) for each in deliveries]
    assert {each["id"] for each in bodies} == {created["id"]}
    assert [each["status"] for each in bodies].count("succeeded") == 1
    assert bodies[-1]["status"] == "succeeded", "the end is told last"
    if bench.mode != "hit":
        assert bodies[0]["status"] in ("starting", "processing"), "the start is told first"
    assert all(_is_signed(bench, each) for each in deliveries)
    return [_sha256_of(bench, each) for each in bodies[-1]["output"]]


def _hook(bench: Bench) -> tuple[str, str]:
    """A path of the receiver for this case alone, and the address to give."""
    path = f"/{bench.client.name}/{bench.case}/{bench.mode}"
    receiver = bench.world.receiver
    return path, (receiver.tls_origin if bench.side == "direct" else receiver.plain_origin) + path


def _deliveries(bench: Bench, path: str) -> list[Delivery]:
    """What arrived until the end was told, and a little longer."""
    receiver, count = bench.world.receiver, 1
    deadline = time.monotonic() + DELIVERY_TIMEOUT_S
    while time.monotonic() < deadline:
        arrived = receiver.wait_for(path, count, max(deadline - time.monotonic(), 0.01))
        if arrived and json.loads(arrived[-1].body)["status"] not in ("starting", "processing"):
            break
        count = len(arrived) + 1
    time.sleep(QUIET_S)
    arrived = receiver.wait_for(path, 0, 0.01)
    assert arrived, f"no webhook within {DELIVERY_TIMEOUT_S:g} s"
    return arrived


def _is_valid(bench: Bench, delivery: Delivery) -> bool:
    """By the client's own validator; by ours where it has none."""
    try:
        args = {"headers": delivery.headers, "body": delivery.body, "fetch_secret": True}
        return bool(bench.ask("validate_webhook", **args)["valid"])
    except Unsupported:
        return _is_signed(bench, delivery)


def _is_signed(bench: Bench, delivery: Delivery) -> bool:
    """Source: the API's page on verifying webhooks: HMAC-SHA256 over id, time and body, in base64."""
    with bench.world.http(bench.side) as http:
        key = http.get("/v1/webhooks/default/secret").raise_for_status().json()["key"]
    headers = delivery.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{delivery.body}".encode()
    secret = base64.b64decode(key.removeprefix("whsec_"))
    ours = "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    return ours in headers["webhook-signature"].split()


def _sha256_of(bench: Bench, url: str) -> str:
    """A file by its address, which must lead to whom the client talks to."""
    with bench.world.http(bench.side) as http:
        if bench.side == "proxy":
            assert url.startswith(bench.world.base_url("proxy")), url
        return hashlib.sha256(http.get(url).raise_for_status().content).hexdigest()


# --- errors ---


def _refused(bench: Bench, status: int, error: dict[str, Any]) -> Any:
    """As the client's own type, which the comparison with the API itself checks; not all types tell a status."""
    assert error["status"] in (bench.client.renames.get(status, status), None), error
    return error


@case("get 401 for a wrong token, even where the answer is stored", direct=0, miss=0, hit=1)
def error_401(bench: Bench) -> Any:
    if bench.mode == "hit":
        bench.ask("run", **bench.plain())
    return _refused(bench, 401, bench.ask_error("error", WRONG, **bench.plain()))


@case("get 402 when the credit is used up", direct=0, miss=0)
def error_402(bench: Bench) -> Any:
    return _refused(bench, 402, bench.ask_error("error", POOR, **bench.plain()))


@case("get 404 for a model that does not exist", direct=0, miss=0)
def error_404_model(bench: Bench) -> Any:
    return _refused(bench, 404, bench.ask_error("error", model="nobody/nothing", input=bench.plain()["input"]))


@case("get 404 for a prediction that does not exist", direct=0, miss=0)
def error_404_prediction(bench: Bench) -> Any:
    return _refused(bench, 404, bench.ask_error("get", id="x0fmfzfcf5rma0cq65c825tcbm"))


@case("get 422 for a bad input", direct=0, miss=0)
def error_422_input(bench: Bench) -> Any:
    asked = bench.models.bad(bench.given(), is_text=bench.client.writes_only)
    return _refused(bench, 422, bench.ask_error("error", **asked))


@case("get 422 for a version that does not exist", direct=0, miss=0)
def error_422_version(bench: Bench) -> Any:
    return _refused(bench, 422, bench.ask_error("error", version="0" * 64, input=bench.given()))


@case("get 429 with its Retry-After", direct=0, miss=0)
def error_429(bench: Bench) -> Any:
    with bench.world.throttled():
        error = bench.ask_error("error", **bench.plain())
    assert error["retry_after"] in ("1", None)
    return _refused(bench, 429, error)


@case("be told of a failed model; a failure is never kept", direct=1, miss=1, hit=1)
def model_fails(bench: Bench) -> Any:
    return bench.ask_error("error", **bench.models.failing(bench.given()))


# --- what Hotplate adds ---


@case("read the output of a repeat after the API has deleted it", miss=1, hit=0)
def outputs_outlive_the_upstreams(bench: Bench) -> Any:
    output = bench.ask("run", **bench.plain())["output"]
    bench.world.expire()
    return output


@case("get an earlier prediction with its output after the API has deleted it", miss=1, hit=0)
def predictions_outlive_the_upstreams(bench: Bench) -> Any:
    with bench.world.http("proxy") as http:
        created = http.post(
            "/v1/models/acme/pixel/predictions", json={"input": bench.given()}, headers={"Prefer": "wait"}
        )
        bench.world.expire()
    seen = bench.ask("get", id=created.raise_for_status().json()["id"])
    assert seen["status"] == "succeeded"
    assert len(files_in(seen["output"])) == 1
    return seen


# --- everything else passes through ---


def lookup(title: str, what: str, **args: str) -> None:
    """A case that only asks, and must be answered as by the API itself."""

    def do(bench: Bench) -> Any:
        document = settled(bench.ask(what, **args)["document"])
        assert document is not None
        return document

    do.__name__ = f"lookup_{what}"
    case(title, direct=0, miss=0)(do)


lookup("look up the account", "account")
lookup("get a model", "models_get", model="painters/brush")
lookup("list models", "models_list")
lookup("search models", "models_search", query="brush")
lookup("list a model's versions", "versions", model="painters/brush")
lookup("get a version", "version_get", model="painters/brush", version=version_of("painters/brush"))
lookup("list collections", "collections")
lookup("get a collection", "collection_get", slug="text-to-image")
lookup("list hardware", "hardware")
lookup("list deployments", "deployments_list")
lookup("get a deployment", "deployment_get", name="acme/pixel-live")
lookup("list trainings", "trainings_list")


@case("upload a file, find it, read about it and delete it", direct=0, miss=0)
def files(bench: Bench) -> Any:
    created = bench.ask("files_create", path=bench.file())["document"]
    listed = bench.ask("files_list")["document"]
    entries = listed["results"] if isinstance(listed, dict) else listed
    assert created["id"] in [each["id"] for each in entries]
    got = bench.ask("files_get", id=created["id"])["document"]
    bench.ask("files_delete", id=created["id"])
    assert bench.ask_error("files_get", id=created["id"])["status"] in (404, None)
    told = ("name", "content_type", "size", "checksums")
    assert {name: got.get(name) for name in told} == {name: created.get(name) for name in told}
    return {name: got.get(name) for name in told}


def eventually(is_so: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.05)
    return is_so()
