"""``litellm``; it takes no address for Replicate, so the name ``api.replicate.com`` is aimed."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
from line_server import Ask, Unsupported, aim_names, only, serve

TEXT_ONLY = "litellm completes text, and gives nothing of the prediction behind it"


def asked(ask: Ask, **options: Any) -> dict[str, Any]:
    """The arguments of a completion, as a user of chat models gives them."""
    aim_names(ask.args.get("dns", {}))
    given = dict(ask.args["input"])
    prompt = given.pop("prompt")
    name = ask.args["model"]
    if ":" in name:
        raise Unsupported("litellm puts the version where the model's name belongs in the address")
    return {
        "model": f"replicate/{name}",
        "messages": [{"role": "user", "content": prompt}],
        "api_key": ask.token,
        "num_retries": 0,
        **given,
        **options,
    }


def run(ask: Ask) -> dict[str, Any]:
    return {"output": text_of(litellm.completion(**asked(ask)))}


def run_async(ask: Ask) -> dict[str, Any]:
    async def running() -> Any:
        return await litellm.acompletion(**asked(ask))

    return {"output": text_of(asyncio.run(running()))}


def text_of(response: Any) -> str:
    text = str(response.choices[0].message.content)
    if text.startswith("https:"):
        raise Unsupported("litellm joins addresses of files into one string")
    return text


def stream(ask: Ask) -> dict[str, Any]:
    """Asynchronous, since its synchronous way dies of any poll that finds no output yet."""

    async def streaming() -> list[list[Any]]:
        chunks = [each async for each in await litellm.acompletion(**asked(ask, stream=True))]
        return [["output", "".join(each.choices[0].delta.content or "" for each in chunks)]]

    return {"events": asyncio.run(streaming())}


def error(ask: Ask) -> dict[str, Any]:
    if "version" in ask.args:
        raise Unsupported("litellm names models and deployments only")
    return run(ask)


def explain(error: BaseException) -> dict[str, Any]:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return {"status": getattr(error, "status_code", None), "retry_after": headers.get("retry-after")}


CASES = only(TEXT_ONLY, run=run, run_async=run_async, stream=stream, error=error)

if __name__ == "__main__":
    litellm.suppress_debug_info = True
    serve(CASES, explain)
