"""``huggingface_hub``'s ``InferenceClient``, provider ``replicate``; its host is fixed, so its name is aimed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers._common import HARDCODED_MODEL_INFERENCE_MAPPING
from line_server import Ask, Unsupported, aim_names, describe, only, serve

ONE_PICTURE = "the InferenceClient gives one picture, and nothing of the prediction behind it"


def known(ask: Ask, task: str) -> str:
    """The model, known to the client as the hub would tell it, whom we do not ask."""
    aim_names(ask.args.get("dns", {}))
    model = str(ask.args["model"])
    HARDCODED_MODEL_INFERENCE_MAPPING["replicate"][model] = InferenceProviderMapping(
        provider="replicate", hf_model_id=model, providerId=model, task=task, status="live"
    )
    return model


def drawn(picture: Any) -> dict[str, Any]:
    """A picture by its pixels: the client gives no file, but a decoded one."""
    return {"output": describe(picture.convert("RGB").tobytes(), type(picture).__name__)}


def pictured(ask: Ask) -> dict[str, Any]:
    given = dict(ask.args["input"])
    wanted = {name: given.pop(name) for name in ("width", "height", "seed") if name in given}
    return {"prompt": given.pop("prompt"), **wanted, "extra_body": given or None}


def run(ask: Ask) -> dict[str, Any]:
    if ask.args.get("wait", {}).get("mode") == "poll":
        raise Unsupported("the InferenceClient never polls")
    model = known(ask, "text-to-image")
    return drawn(InferenceClient(provider="replicate", api_key=ask.token).text_to_image(model=model, **pictured(ask)))


def run_async(ask: Ask) -> dict[str, Any]:
    async def running() -> Any:
        model = known(ask, "text-to-image")
        async with AsyncInferenceClient(provider="replicate", api_key=ask.token) as client:
            return await client.text_to_image(model=model, **pictured(ask))

    return drawn(asyncio.run(running()))


def file_input(ask: Ask) -> dict[str, Any]:
    if ask.args["how"] != "data_uri":
        raise Unsupported("the InferenceClient encodes files and never uploads them")
    given = {name: value for name, value in ask.args["input"].items() if name not in ("prompt", ask.args["field"])}
    client = InferenceClient(provider="replicate", api_key=ask.token)
    model = known(ask, "image-to-image")
    content = Path(ask.args["path"]).read_bytes()
    return drawn(client.image_to_image(content, prompt=ask.args["input"].get("prompt"), model=model, **given))


def error(ask: Ask) -> dict[str, Any]:
    if "version" in ask.args:
        raise Unsupported("the InferenceClient names a version only together with its model")
    return run(ask)


def explain(error: BaseException) -> dict[str, Any]:
    if isinstance(error, HfHubHTTPError):
        headers = error.response.headers
        return {"status": error.response.status_code, "retry_after": headers.get("retry-after")}
    return {}


CASES = only(ONE_PICTURE, run=run, run_async=run_async, file_input=file_input, error=error)

if __name__ == "__main__":
    serve(CASES, explain)
