"""``GET /webhooks/default/secret`` through a whole application, in front of an API on loopback."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.app import Application, build_application
from proxy.logs import RequestLog
from proxy.settings import Settings
from tests.fakes.raw_server import RawServer, raw_server, reply

pytestmark = pytest.mark.anyio

ALICE, BOB = "r8_" + "a" * 37, "r8_" + "b" * 37
ACCOUNT = reply(headers=["Content-Type: application/json"], body=b'{"type":"user","username":"alice"}')
OTHER_ACCOUNT = reply(headers=["Content-Type: application/json"], body=b'{"type":"user","username":"bob"}')
KEY = b'{"key": "whsec_' + base64.b64encode(b"the account's own secret") + b'"}'
SECRET = reply(headers=["Content-Type: application/json"], body=KEY)
MISSING = reply("404 Not Found", ["Content-Type: application/json"], b'{"detail":"no such thing"}')
REFUSAL = reply("401 Unauthorized", ["Content-Type: application/json"], b'{"title":"Unauthenticated","status":401}')


@asynccontextmanager
async def application(data_dir: Path, *upstreams: dict[str, Any], **sections: Any) -> AsyncIterator[Application]:
    settings = Settings.model_validate({"data_dir": data_dir / "data", "upstream": upstreams, **sections})
    application = await build_application(settings, "https://images.example.com", RequestLog(None))
    try:
        yield application
    finally:
        await application.aclose(0.0)


def api(server: RawServer) -> dict[str, Any]:
    return {"kind": "replicate", "name": "api", "base_url": f"http://127.0.0.1:{server.port}/v1"}


def servers_of_our_own(name: str = "gpus") -> dict[str, Any]:
    return {"kind": "cog", "name": name, "urls": ["http://127.0.0.1:9"]}


async def ask(application: Application, token: str | None = ALICE, query: str = "") -> httpx.Response:
    transport = httpx.ASGITransport(application.public, client=("127.0.0.1", 50_000))
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get(f"/v1/webhooks/default/secret{query}", headers=headers)


async def test_caller_gets_the_answer_of_the_api_itself(tmp_path: Path) -> None:
    async with raw_server(ACCOUNT, SECRET) as server, application(tmp_path, api(server)) as built:
        answer = await ask(built)
        assert (answer.status_code, answer.content) == (200, KEY)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "private, no-store"
        paths = [request.split(b" ")[1] for request in server.requests]
        assert paths[-1] == b"/v1/webhooks/default/secret"
        assert f"Bearer {ALICE}".encode() in server.requests[-1]


async def test_caller_of_an_api_without_such_secrets_gets_one_of_their_own(tmp_path: Path) -> None:
    async with raw_server(ACCOUNT, MISSING) as server, application(tmp_path, api(server)) as built:
        first, again = await ask(built), await ask(built)
        assert first.status_code == 200
        assert first.json()["key"].startswith("whsec_")
        assert again.json() == first.json(), "it stays the same"
        server.replies = [OTHER_ACCOUNT, MISSING]
        assert (await ask(built, BOB)).json() != first.json()
        server.replies = [ACCOUNT, MISSING]
        other_token = "r8_" + "c" * 37
        assert (await ask(built, other_token)).json() == first.json(), "it is the account's"


async def test_refused_token_gets_no_secret_but_the_apis_refusal(tmp_path: Path) -> None:
    async with raw_server(REFUSAL) as server, application(tmp_path, api(server)) as built:
        answer = await ask(built)
        assert (answer.status_code, answer.json()["title"]) == (401, "Unauthenticated")
        assert b"whsec" not in answer.content
        assert (await ask(built, None)).status_code == 401


async def test_nobody_gets_a_secret_while_the_api_cannot_be_asked_about_them(tmp_path: Path) -> None:
    async with raw_server() as server:
        gone = api(server)
    async with application(tmp_path, gone) as built:
        answer = await ask(built)
        assert answer.status_code == 503
        assert b"whsec" not in answer.content


async def test_models_without_accounts_have_a_secret_for_each_own_token(tmp_path: Path) -> None:
    tokens = ["first-token-of-sixteen", "second-token-of-sixteen"]
    async with application(tmp_path, servers_of_our_own(), auth={"tokens": tokens}) as built:
        first, second = await ask(built, tokens[0]), await ask(built, tokens[1])
        assert first.status_code == second.status_code == 200
        assert first.json()["key"] != second.json()["key"]
        for token in (None, ALICE):
            refused = await ask(built, token)
            assert refused.status_code == 401
            assert b"whsec" not in refused.content


async def test_secret_of_one_of_several_upstreams_can_be_asked_for(tmp_path: Path) -> None:
    async with (
        raw_server(ACCOUNT, SECRET) as server,
        application(tmp_path, servers_of_our_own(), api(server)) as built,
    ):
        assert (await ask(built)).content == KEY
        own = await ask(built, query="?upstream=gpus")
        assert own.status_code == 200
        assert own.content != KEY
        assert (await ask(built, query="?upstream=nobody")).status_code == 404


async def test_answer_passes_through_where_hotplate_sends_no_webhooks(tmp_path: Path) -> None:
    async with (
        raw_server(reply("202 Accepted", body=b"as it is")) as server,
        application(tmp_path, api(server), webhooks={"enabled": False}) as built,
    ):
        answer = await ask(built)
        assert (answer.status_code, answer.content) == (202, b"as it is")
