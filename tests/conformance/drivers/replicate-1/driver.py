"""PyPI ``replicate`` 1.x."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any

import httpx
import replicate
from line_server import Ask, Unsupported, describe, fetch_address, join_logs, replace_files, serve
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.webhook import Webhooks, WebhookValidationError

TERMINAL = ("succeeded", "failed", "canceled", "aborted")
DEADLINE_POLL_S = 20.0


def client_of(ask: Ask, **options: Any) -> Client:
    return Client(api_token=ask.token, base_url=ask.base_url, **options)


def get(url: str) -> bytes:
    return httpx.get(url, timeout=30).raise_for_status().content


def read(value: Any) -> dict[str, Any] | None:
    if isinstance(value, FileOutput):
        return describe(value.read(), type(value).__name__)
    return fetch_address(value, get)


def shown(output: Any) -> Any:
    """The client's output; a generator counts as the list of what it yields."""
    return replace_files(list(output) if isinstance(output, GeneratorType) else output, read)


def wait_of(ask: Ask) -> dict[str, Any]:
    return {"wait": False} if ask.args.get("wait", {}).get("mode") == "poll" else {}


def run(ask: Ask) -> dict[str, Any]:
    return {"output": shown(client_of(ask).run(ask.args["model"], input=ask.args["input"], **wait_of(ask)))}


def run_async(ask: Ask) -> dict[str, Any]:
    async def running() -> Any:
        client = client_of(ask)
        output = await client.async_run(ask.args["model"], input=ask.args["input"], **wait_of(ask))
        if hasattr(output, "__aiter__") and not isinstance(output, FileOutput):
            output = [each async for each in output]
        files: dict[int, bytes] = {}

        async def fetch(value: Any) -> None:
            if isinstance(value, FileOutput):
                files[id(value)] = await value.aread()
            for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
                await fetch(each)

        await fetch(output)
        return replace_files(output, lambda v: describe(files[id(v)], type(v).__name__) if id(v) in files else None)

    return {"output": asyncio.run(running())}


def create(ask: Ask, client: Client | None = None, **params: Any) -> Any:
    """Create by model, version or deployment, whichever is given."""
    client = client or client_of(ask)
    given = ask.args["input"]
    if "deployment" in ask.args:
        return client.deployments.predictions.create(ask.args["deployment"], input=given, **params)
    if "version" in ask.args:
        return client.predictions.create(version=ask.args["version"], input=given, **params)
    return client.models.predictions.create(ask.args["model"], input=given, **params)


def create_and_poll(ask: Ask) -> dict[str, Any]:
    prediction = create(ask)
    first = prediction.status
    prediction.wait()
    document = final(ask, prediction.id)
    return {
        "first_status": first,
        "final_status": prediction.status,
        "has_logs": bool(prediction.logs),
        "fields": document["fields"],
        "output": shown(prediction.output),
    }


def final(ask: Ask, prediction_id: str) -> dict[str, Any]:
    found = client_of(ask).predictions.get(prediction_id)
    return {
        "status": found.status,
        "output": shown(found.output),
        "fields": sorted(found.dict(exclude_unset=True)),
    }


def create_wait(ask: Ask) -> dict[str, Any]:
    prediction = create(ask, wait=ask.args["wait_s"])
    return {"status": prediction.status, "output": shown(prediction.output)}


def stream(ask: Ask) -> dict[str, Any]:
    def events() -> Iterator[tuple[str, Any]]:
        for event in client_of(ask).stream(ask.args["model"], input=ask.args["input"]):
            yield event.event.value, shown(event.data)

    return {"events": join_logs(events())}


def list_first(ask: Ask) -> dict[str, Any]:
    page = client_of(ask).predictions.list()
    return {"ids": [each.id for each in page.results[:10]], "count": len(page.results)}


def pages(ask: Ask) -> dict[str, Any]:
    found = list(replicate.paginate(client_of(ask).predictions.list))
    return {"ids": [each.id for page in found for each in page.results], "pages": len(found)}


def cancel(ask: Ask) -> dict[str, Any]:
    prediction = create(ask)
    prediction.cancel()
    return {"status": prediction.status}


def deadline(ask: Ask) -> dict[str, Any]:
    """There is no parameter for it; a header of the client goes with every request."""
    prediction = create(ask, client_of(ask, headers={"Cancel-After": ask.args["cancel_after"]}))
    until = time.monotonic() + DEADLINE_POLL_S
    while prediction.status not in TERMINAL and time.monotonic() < until:
        time.sleep(0.2)
        prediction.reload()
    return {"status": prediction.status}


def file_input(ask: Ask) -> dict[str, Any]:
    how = ask.args["how"]
    if how not in ("upload", "data_uri"):
        raise Unsupported(f"Python has no {how}; a file object is uploaded or encoded")
    params = {"file_encoding_strategy": "base64"} if how == "data_uri" else {}
    with Path(ask.args["path"]).open("rb") as file:
        given = {**ask.args["input"], ask.args["field"]: file}
        return {"output": shown(client_of(ask).run(ask.args["model"], input=given, **params))}


def output_as_input(ask: Ask) -> dict[str, Any]:
    client = client_of(ask)
    first = client.run(ask.args["model"], input=ask.args["input"])
    file = first[0] if isinstance(first, list) else first
    # A FileOutput is no file object to 1.x; its address is what its users give on.
    given = {**ask.args["second_input"], ask.args["field"]: file.url}
    return {"output": shown(client.run(ask.args["second_model"], input=given))}


def webhook(ask: Ask) -> dict[str, Any]:
    events = {"webhook_events_filter": ask.args["events"]} if "events" in ask.args else {}
    return {"id": create(ask, webhook=ask.args["webhook_url"], **events).id}


def validate_webhook(ask: Ask) -> dict[str, Any]:
    secret = client_of(ask).webhooks.default.secret()
    try:
        Webhooks.validate(headers=ask.args["headers"], body=ask.args["body"], secret=secret)
    except WebhookValidationError:
        return {"valid": False}
    return {"valid": True}


def error(ask: Ask) -> dict[str, Any]:
    if "version" in ask.args:
        return {"output": create(ask).id}
    return run(ask)


def explain(error: BaseException) -> dict[str, Any]:
    if isinstance(error, ReplicateError):
        return {"status": error.status, "message": error.detail or error.title or ""}
    if isinstance(error, ModelError):
        return {"message": str(error)}
    return {}


def document(resource: Any) -> dict[str, Any]:
    """What the client keeps of an answer, as JSON."""
    if isinstance(resource, list):
        return {"document": [json.loads(each.json()) for each in resource]}
    return {"document": json.loads(resource.json())}


def reading(ask_client: Callable[[Client, dict[str, Any]], Any]) -> Callable[[Ask], dict[str, Any]]:
    return lambda ask: document(ask_client(client_of(ask), ask.args))


def files_create(ask: Ask) -> dict[str, Any]:
    with Path(ask.args["path"]).open("rb") as file:
        return document(client_of(ask).files.create(file))


CASES = {
    "run": run,
    "run_async": run_async,
    "create_and_poll": create_and_poll,
    "create_wait": create_wait,
    "stream": stream,
    "list": list_first,
    "pages": pages,
    "get": lambda ask: final(ask, ask.args["id"]),
    "cancel": cancel,
    "cancel_id": lambda ask: {"status": client_of(ask).predictions.cancel(ask.args["id"]).status},
    "deadline": deadline,
    "file_input": file_input,
    "output_as_input": output_as_input,
    "webhook": webhook,
    "validate_webhook": validate_webhook,
    "error": error,
    "account": reading(lambda client, args: client.accounts.current()),
    "models_get": reading(lambda client, args: client.models.get(args["model"])),
    "models_list": reading(lambda client, args: client.models.list().results),
    "models_search": reading(lambda client, args: client.models.search(args["query"]).results),
    "versions": reading(lambda client, args: client.models.get(args["model"]).versions.list().results),
    "version_get": reading(lambda client, args: client.models.get(args["model"]).versions.get(args["version"])),
    "collections": reading(lambda client, args: client.collections.list().results),
    "collection_get": reading(lambda client, args: client.collections.get(args["slug"])),
    "hardware": reading(lambda client, args: client.hardware.list()),
    "deployments_list": reading(lambda client, args: client.deployments.list().results),
    "deployment_get": reading(lambda client, args: client.deployments.get(args["name"])),
    "trainings_list": reading(lambda client, args: client.trainings.list().results),
    "files_list": reading(lambda client, args: client.files.list()),
    "files_get": reading(lambda client, args: client.files.get(args["id"])),
    "files_create": files_create,
    "files_delete": lambda ask: {"document": {"deleted": client_of(ask).files.delete(ask.args["id"])}},
}

if __name__ == "__main__":
    serve(CASES, explain)
