"""``hotplate demo``: the whole product on the embedded model, seen through the real ``replicate`` client.

One prediction that finds the model switched off, one that finds it running, and the first one again. At the
next start the pictures of earlier demos are asked for again too, and come from the cache.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from replicate.client import Client
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from proxy.app import Application
from proxy.logs import RequestLog
from proxy.serving import Addresses, serve
from proxy.settings import Settings
from proxy.upstreams.local_cog import LocalCog

MODEL = "black-forest-labs/flux-schnell"
"""The name that Replicate's own guide uses; the demo answers for it with its own small model."""

PROMPTS = (
    "an astronaut riding a horse",
    "a 19th century portrait of a raccoon gentleman wearing a suit",
    "mountains at dawn, mist in the valleys",
    "a city skyline at dusk",
    "a nebula, deep violet and gold",
    "the ocean at night under a full moon",
    "desert dunes in the evening sun",
)

NO_TOKEN = "none"  # noqa: S105 - it opens nothing
"""The client wants one; an upstream without accounts on loopback looks at none."""

EARLIER_SHOWN = 3
"""How many pictures of earlier demos are asked for again."""

_LINK = re.compile(r"<([^>]+)>")


class DemoFailed(Exception):
    """The demo did not show what it promises; the text says what happened instead."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of the table.

    Attributes:
        seconds: from the request to the picture's bytes, at the client.
        download_s: simulated download of weights that is part of them.
        cache_status: the answer's ``Cache-Status``.
        url: the picture's lasting address.
    """

    what: str
    prompt: str
    seconds: float
    download_s: float
    cache_status: str
    url: str
    picture: bytes


UPSTREAM = {"kind": "local", "name": "demo", "models": ["hotplate/demo", MODEL], "idle_timeout_s": 120.0}
"""The demo's one upstream, whatever else is configured."""


async def run_demo(settings: Settings, console: Console, log: RequestLog, *, once: bool) -> None:
    """Serve, show, and go on serving until stopped; with ``once`` stop when all is shown.

    Raises:
        DemoFailed: a picture did not come, or not from where it should have.
        SettingsError, StorageError: see ``serve``.
    """
    ready: asyncio.Future[tuple[Addresses, Application]] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, log, lambda *what: ready.set_result(what)))
    try:
        waited: list[asyncio.Future[Any]] = [serving, ready]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await serving
            return
        addresses, application = ready.result()
        showing = asyncio.create_task(_show(settings, console, addresses, application))
        await asyncio.wait([serving, showing], return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():  # stopped before the end
            showing.cancel()
            await asyncio.wait([showing])
            return
        showing.result()
        if once:
            return
        _say_how_to_go_on(console, addresses)
        await serving
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def _show(settings: Settings, console: Console, addresses: Addresses, application: Application) -> None:
    model = application.services.catalog.upstreams[0]
    assert isinstance(model, LocalCog)
    history = _History(settings.data_dir / "demo.json")
    client = _Client(addresses)
    console.print(f"Hotplate serves at [bold]{addresses.base_url}[/]\n")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def say(what: str) -> None:
            progress.update(task, description=what)

        say("the model's own environment is installed, once")
        await model.prepare()
        rows: list[Shown] = []
        for run in history.runs[-EARLIER_SHOWN:]:
            say("a picture of an earlier demo")
            rows.append(await client.ask("kept from before", run))
        fresh = _next_run(history)
        watching = asyncio.create_task(_watch(model, say))
        try:
            rows.append(await client.ask("cold: the model was off", fresh))
            history.add(fresh)
            say("the model is running now")
            rows.append(await client.ask("warm: another picture", {**fresh, "seed": fresh["seed"] + 1}))
            say("the first one again")
            rows.append(await client.ask("hit: the first one again", fresh))
        finally:
            watching.cancel()
    _print_table(console, rows)
    _check(rows)


async def _watch(model: LocalCog, say: Callable[[str], None]) -> None:
    """Tell what the model is doing while the first picture is waited for."""
    while True:
        state = await model.readiness()
        say(f"cold start: {state.detail}")
        await asyncio.sleep(0.2)


class _History:
    """Inputs of earlier demos, in a small file of the data folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.runs: list[dict[str, Any]] = []
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.runs = [run for run in found if isinstance(run, dict) and isinstance(run.get("seed"), int)]
        except (OSError, ValueError, TypeError):
            self.runs = []

    def add(self, run: dict[str, Any]) -> None:
        self.runs.append(run)
        fresh = self._path.with_suffix(".tmp")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(self.runs, indent=1), encoding="utf-8")
        fresh.replace(self._path)


def _next_run(history: _History) -> dict[str, Any]:
    """An input that no demo on this data folder has used."""
    number = max((run["seed"] for run in history.runs), default=0)
    seed = number + 2 if history.runs else 1
    return {"prompt": PROMPTS[(len(history.runs)) % len(PROMPTS)], "seed": seed}


class _Client:
    """The real ``replicate`` client, and what its answers' headers say."""

    def __init__(self, addresses: Addresses) -> None:
        self._heads: list[httpx.Headers] = []
        bundle = addresses.tls.ca_bundle_file if addresses.tls is not None else None
        self._transport = httpx.HTTPTransport(verify=_context(bundle), trust_env=False)
        self._client = Client(
            api_token=NO_TOKEN,
            base_url=addresses.public_url,
            transport=self._transport,
            event_hooks={"response": [self._remember]},
        )

    def _remember(self, response: httpx.Response) -> None:
        if response.request.method == "POST":
            self._heads.append(response.headers)

    async def ask(self, what: str, given: dict[str, Any]) -> Shown:
        """Run the model and read the picture, as any user would."""
        return await asyncio.to_thread(self._ask, what, given)

    def _ask(self, what: str, given: dict[str, Any]) -> Shown:
        began = time.perf_counter()
        output = self._client.run(MODEL, input=given)
        if not isinstance(output, list) or not output or not hasattr(output[0], "read"):
            raise DemoFailed(f"{what}: no picture came back")
        picture = output[0].read()
        seconds = time.perf_counter() - began
        head = self._heads[-1]
        timing = re.search(r"download;dur=([\d.]+)", head.get("server-timing", ""))
        link = _LINK.search(head.get("link", ""))
        return Shown(
            what=what,
            prompt=given["prompt"],
            seconds=seconds,
            download_s=float(timing.group(1)) / 1000 if timing else 0.0,
            cache_status=head.get("cache-status", ""),
            url=link.group(1) if link else "",
            picture=picture,
        )


def _context(bundle: Path | None) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=str(bundle)) if bundle is not None else True


def _print_table(console: Console, rows: list[Shown]) -> None:
    shows_download = any(row.download_s for row in rows)
    table = Table(title="What each picture took, at the client", title_justify="left")
    table.add_column("request")
    table.add_column("seconds", justify="right")
    if shows_download:
        table.add_column("simulated download", justify="right")
    table.add_column("Cache-Status")
    for row in rows:
        cells = [row.what, f"{row.seconds - row.download_s:.3f}"]
        if shows_download:
            cells.append(f"{row.download_s:.3f}" if row.download_s else "")
        table.add_row(*cells, row.cache_status)
    console.print(table)
    console.print("The pictures, for as long as you keep them:")
    for row in {row.url: row for row in rows}.values():
        # One unbroken line each, so that a terminal can open it.
        console.print(Text(f"  {row.prompt}\n  {row.url}"), soft_wrap=True)


def _check(rows: list[Shown]) -> None:
    """The table must be true: what was asked before came from the cache, byte for byte."""
    cold, _, hit = rows[-3:]
    if hit.picture != cold.picture or "; hit" not in hit.cache_status:
        raise DemoFailed("the repeated request was not answered from the cache")
    for row in rows[:-3]:
        if "; hit" not in row.cache_status:
            raise DemoFailed("a picture of an earlier demo was not in the cache any more")


def _say_how_to_go_on(console: Console, addresses: Addresses) -> None:
    console.print(
        f"\nServing until Ctrl-C. In another terminal:\n"
        f"  export REPLICATE_BASE_URL={addresses.base_url} REPLICATE_API_TOKEN=any\n"
        f"  python -c 'import replicate; "
        f'print(replicate.run("{MODEL}", input={{"prompt": "a red fox"}})[0].read()[:4])\'\n'
        f"Admin: {addresses.admin_url}/metrics",
        highlight=False,
        soft_wrap=True,
    )
