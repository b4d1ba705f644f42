"""PyPI ``replicate`` 2.x, a pre-release."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any

import httpx
import replicate
from line_server import Ask, Unsupported, cannot, describe, fetch_address, replace_files, serve
from replicate import AsyncReplicate, Replicate
from replicate.lib._files import AsyncFileOutput, FileOutput

TERMINAL = ("succeeded", "failed", "canceled", "aborted")
DEADLINE_POLL_S = 20.0


def client_of(ask: Ask) -> Replicate:
    return Replicate(bearer_token=ask.token, base_url=f"{ask.base_url}/v1")


def get(url: str) -> bytes:
    return httpx.get(url, timeout=30).raise_for_status().content


def read(value: Any) -> dict[str, Any] | None:
    if isinstance(value, FileOutput):
        return describe(value.read(), type(value).__name__)
    if isinstance(value, os.PathLike):
        return describe(Path(os.fspath(value)).read_bytes(), type(value).__name__)
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
        client = AsyncReplicate(bearer_token=ask.token, base_url=f"{ask.base_url}/v1")
        output = await client.run(ask.args["model"], input=ask.args["input"], **wait_of(ask))
        if hasattr(output, "__aiter__") and not isinstance(output, AsyncFileOutput):
            output = [each async for each in output]
        files: dict[int, bytes] = {}

        async def fetch(value: Any) -> None:
            if isinstance(value, AsyncFileOutput):
                files[id(value)] = await value.read()
            for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
                await fetch(each)

        await fetch(output)
        return replace_files(output, lambda v: describe(files[id(v)], type(v).__name__) if id(v) in files else None)

    return {"output": asyncio.run(running())}


def create(ask: Ask, **params: Any) -> Any:
    """Create by model, version or deployment, whichever is given."""
    client, given = client_of(ask), ask.args["input"]
    if "deployment" in ask.args:
        owner, name = ask.args["deployment"].split("/")
        return client.deployments.predictions.create(
            deployment_owner=owner, deployment_name=name, input=given, **params
        )
    if "version" in ask.args:
        return client.predictions.create(version=ask.args["version"], input=given, **params)
    owner, name = ask.args["model"].split("/")
    return client.models.predictions.create(model_owner=owner, model_name=name, input=given, **params)


def create_and_poll(ask: Ask) -> dict[str, Any]:
    prediction = create(ask)
    first = prediction.status
    prediction = client_of(ask).predictions.wait(prediction.id)
    return {
        "first_status": first,
        "final_status": prediction.status,
        "has_logs": bool(prediction.logs),
        "fields": sorted(prediction.to_dict(mode="json")),
        "output": shown(prediction.output),
    }


def final(ask: Ask) -> dict[str, Any]:
    found = client_of(ask).predictions.get(prediction_id=ask.args["id"])
    return {
        "status": found.status,
        "output": shown(found.output),
        "fields": sorted(found.to_dict(mode="json")),
    }


def create_wait(ask: Ask) -> dict[str, Any]:
    prediction = create(ask, prefer=f"wait={ask.args['wait_s']}")
    return {"status": prediction.status, "output": shown(prediction.output)}


def stream(ask: Ask) -> dict[str, Any]:
    """Its streaming is polling: what it yields are the items of the growing output."""

    def items() -> Iterator[list[Any]]:
        # ``stream`` makes clients of its own, from the environment.
        os.environ.update(REPLICATE_API_TOKEN=ask.token, REPLICATE_BASE_URL=f"{ask.base_url}/v1")
        for item in replicate.stream(ask.args["model"], input=ask.args["input"]):
            yield ["output", shown(item)]

    return {"events": list(items())}


def list_first(ask: Ask) -> dict[str, Any]:
    page = client_of(ask).predictions.list()
    return {"ids": [each.id for each in page.results[:10]], "count": len(page.results)}


def pages(ask: Ask) -> dict[str, Any]:
    found = list(client_of(ask).predictions.list().iter_pages())
    return {"ids": [each.id for page in found for each in page.results], "pages": len(found)}


def cancel(ask: Ask) -> dict[str, Any]:
    return {"status": client_of(ask).predictions.cancel(prediction_id=create(ask).id).status}


def deadline(ask: Ask) -> dict[str, Any]:
    prediction = create(ask, cancel_after=ask.args["cancel_after"])
    until = time.monotonic() + DEADLINE_POLL_S
    while prediction.status not in TERMINAL and time.monotonic() < until:
        time.sleep(0.2)
        prediction = client_of(ask).predictions.get(prediction_id=prediction.id)
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
    given = {**ask.args["second_input"], ask.args["field"]: file.url}
    return {"output": shown(client.run(ask.args["second_model"], input=given))}


def webhook(ask: Ask) -> dict[str, Any]:
    events = {"webhook_events_filter": ask.args["events"]} if "events" in ask.args else {}
    return {"id": create(ask, webhook=ask.args["webhook_url"], **events).id}


def error(ask: Ask) -> dict[str, Any]:
    if "version" in ask.args:
        return {"output": create(ask).id}
    return run(ask)


def explain(error: BaseException) -> dict[str, Any]:
    if isinstance(error, replicate.APIStatusError):
        return {"status": error.status_code, "retry_after": error.response.headers.get("retry-after")}
    return {}


def document(resource: Any) -> dict[str, Any]:
    """What the client keeps of an answer, as JSON."""
    if isinstance(resource, list):
        return {"document": [each.to_dict(mode="json") for each in resource]}
    return {"document": resource.to_dict(mode="json")}


def reading(ask_client: Callable[[Replicate, dict[str, Any]], Any]) -> Callable[[Ask], dict[str, Any]]:
    return lambda ask: document(ask_client(client_of(ask), ask.args))


def model_of(args: dict[str, Any]) -> dict[str, str]:
    owner, name = args["model"].split("/")
    return {"model_owner": owner, "model_name": name}


def deployment_of(args: dict[str, Any]) -> dict[str, str]:
    owner, name = args["name"].split("/")
    return {"deployment_owner": owner, "deployment_name": name}


def files_create(ask: Ask) -> dict[str, Any]:
    path = Path(ask.args["path"])
    return document(client_of(ask).files.create(content=path.read_bytes(), filename=path.name, type="image/png"))


def files_delete(ask: Ask) -> dict[str, Any]:
    client_of(ask).files.delete(file_id=ask.args["id"])
    return {"document": {"deleted": True}}


CASES = {
    "run": run,
    "run_async": run_async,
    "create_and_poll": create_and_poll,
    "create_wait": create_wait,
    "stream": stream,
    "list": list_first,
    "pages": pages,
    "get": final,
    "cancel": cancel,
    "cancel_id": lambda ask: {"status": client_of(ask).predictions.cancel(prediction_id=ask.args["id"]).status},
    "deadline": deadline,
    "file_input": file_input,
    "output_as_input": output_as_input,
    "webhook": webhook,
    "validate_webhook": cannot("2.0.0b4 reads the webhook secret but has no validator"),
    "error": error,
    "account": reading(lambda client, args: client.account.get()),
    "models_get": reading(lambda client, args: client.models.get(**model_of(args))),
    "models_list": reading(lambda client, args: client.models.list().results),
    "models_search": reading(lambda client, args: client.models.search(body=args["query"]).results),
    "versions": reading(lambda client, args: client.models.versions.list(**model_of(args)).results),
    "version_get": reading(
        lambda client, args: client.models.versions.get(**model_of(args), version_id=args["version"])
    ),
    "collections": reading(lambda client, args: client.collections.list().results),
    "collection_get": reading(lambda client, args: client.collections.get(collection_slug=args["slug"])),
    "hardware": reading(lambda client, args: client.hardware.list()),
    "deployments_list": reading(lambda client, args: client.deployments.list().results),
    "deployment_get": reading(lambda client, args: client.deployments.get(**deployment_of(args))),
    "trainings_list": reading(lambda client, args: client.trainings.list().results),
    "files_list": reading(lambda client, args: client.files.list().results),
    "files_get": reading(lambda client, args: client.files.get(file_id=args["id"])),
    "files_create": files_create,
    "files_delete": files_delete,
}

if __name__ == "__main__":
    serve(CASES, explain)
