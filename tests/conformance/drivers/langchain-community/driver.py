"""``langchain-community``'s ``Replicate``, with ``replicate`` 1.x beneath."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from langchain_community.llms import Replicate
from line_server import Ask, Unsupported, only, serve

TEXT_ONLY = "langchain's Replicate gives text, and nothing of the prediction behind it"


def aim(ask: Ask) -> None:
    """It asks through ``replicate``'s module, which reads the environment once: another aim needs a fresh import."""
    wanted = {"REPLICATE_API_TOKEN": ask.token, "REPLICATE_BASE_URL": ask.base_url}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        for name in [name for name in sys.modules if name.partition(".")[0] == "replicate"]:
            del sys.modules[name]


def model_of(ask: Ask, **options: Any) -> Replicate:
    """A model object, as a user makes it: the prompt is given when it is asked."""
    aim(ask)
    kwargs = {name: value for name, value in ask.args["input"].items() if name != "prompt"}
    return Replicate(model=ask.args["model"], model_kwargs=kwargs, replicate_api_token=ask.token, **options)


def run(ask: Ask) -> dict[str, Any]:
    return {"output": text_of(model_of(ask).invoke(ask.args["input"]["prompt"]))}


def run_async(ask: Ask) -> dict[str, Any]:
    return {"output": text_of(asyncio.run(model_of(ask).ainvoke(ask.args["input"]["prompt"])))}


def text_of(output: str) -> str:
    if output.startswith("https:"):
        raise Unsupported("langchain's Replicate joins addresses of files into one string")
    return output


def stream(ask: Ask) -> dict[str, Any]:
    chunks = list(model_of(ask, streaming=True).stream(ask.args["input"]["prompt"]))
    return {"events": [["output", chunk] for chunk in chunks if chunk]}


def error(ask: Ask) -> dict[str, Any]:
    if "version" in ask.args:
        raise Unsupported("langchain's Replicate names a version only together with its model")
    return run(ask)


def explain(error: BaseException) -> dict[str, Any]:
    if type(error).__name__ == "ReplicateError":
        return {"status": error.status, "message": error.detail or error.title or ""}  # type: ignore[attr-defined]
    return {}


CASES = only(TEXT_ONLY, run=run, run_async=run_async, stream=stream, error=error)

if __name__ == "__main__":
    serve(CASES, explain)
