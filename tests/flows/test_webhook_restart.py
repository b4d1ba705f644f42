"""A delivery that was on its way when the proxy stopped, over a real store and a receiver on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from proxy.app import Application, build_application
from proxy.core.ids import PredictionId
from proxy.engine.parcels import Parcel
from proxy.engine.webhook_secrets import Place
from proxy.logs import RequestLog
from proxy.settings import Settings
from tests.fakes.cog_server import until
from tests.fakes.raw_server import RawServer, Reply, raw_server, reply
from tests.fakes.webhooks import is_signed

pytestmark = pytest.mark.anyio

BODY = b'{"id":"x","status":"succeeded","input":{"prompt":"a red fox"}}'


@asynccontextmanager
async def application(data_dir: Path, receiver: RawServer) -> AsyncIterator[Application]:
    settings = Settings.model_validate(
        {
            "data_dir": data_dir,
            "upstream": [{"kind": "cog", "name": "gpus", "urls": ["http://127.0.0.1:9"]}],
            "webhooks": {"origins": [f"http://127.0.0.1:{receiver.port}"]},
        }
    )
    built = await build_application(settings, "https://images.example.com", RequestLog(None))
    try:
        yield built
    finally:
        await built.aclose(0.0)


async def counted(built: Application) -> dict[str, float]:
    transport = httpx.ASGITransport(built.admin, client=("127.0.0.1", 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        lines = (await client.get("/metrics")).text.splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("hotplate_webhooks_")]
    return {name: float(value) for name, _, value in found if "_created" not in name}


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def is_told_on_disk(folder: Path, text: bytes) -> bool:
    return any(text in file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_delivery_cut_off_by_a_stop_is_made_after_the_restart_and_then_never_again(tmp_path: Path) -> None:
    async with raw_server(Reply(b"", "stall")) as receiver:
        async with application(tmp_path / "data", receiver) as built:
            scope = built.services.gatekeeper.scope_of(built.services.catalog.upstreams[0], None)
            url = f"http://127.0.0.1:{receiver.port}/hook"
            parcel = Parcel(PredictionId("x" * 26), "completed", url, BODY, Place("gpus", scope))
            assert await built.services.courier.entrust(parcel)
            await until(lambda: len(receiver.requests) == 1)
            assert (await counted(built))["hotplate_webhooks_waiting"] == 1
            transport = httpx.ASGITransport(built.public, client=("127.0.0.1", 50_000))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                secret = (await client.get("/v1/webhooks/default/secret")).json()["key"]
            assert not is_told_on_disk(tmp_path, b"red fox")
        receiver.replies = [reply("204 No Content", length=None)]
        async with application(tmp_path / "data", receiver) as built:
            await until(lambda: len(built.services.courier) == 0)
            assert (await counted(built))['hotplate_webhooks_total{outcome="sent"}'] == 1
        async with application(tmp_path / "data", receiver) as built:
            await asyncio.sleep(0.1)
            assert len(built.services.courier) == 0
    first, second = receiver.requests
    assert headers_of(first)["webhook-id"] == headers_of(second)["webhook-id"]
    assert second.endswith(BODY)
    assert secret.startswith("whsec_")
    assert is_signed(headers_of(second), BODY, secret)
