"""File inputs: read from data URIs, from the double's own files and outputs, and over the network."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
import ssl
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from loadtests.fake_model.catalog import JsonObject, ModelError
from loadtests.fake_model.world import Prediction, World

FETCH_TIMEOUT_S = 10.0
MAX_REDIRECTS = 3


class Unreadable(Exception):
    """Why a file input cannot be read; never with its URL, which may hold a secret."""


class FileReader:
    """Gives models the bytes of their file inputs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._client: httpx.AsyncClient | None = None

    async def resolve(self, prediction: Prediction) -> JsonObject:
        """The input with bytes for each file.

        Raises:
            ModelError: one of them cannot be read.
        """
        given = dict(prediction.input)
        for name, schema in prediction.model.properties.items():
            value = given.get(name)
            if value is None:
                continue
            try:
                if schema.get("format") == "uri":
                    given[name] = await self._read(value, prediction.account)
                elif schema.get("items", {}).get("format") == "uri":
                    given[name] = [await self._read(each, prediction.account) for each in value]
            except Unreadable as error:
                raise ModelError(f"Could not read input.{name}: {error}") from error
        return given

    async def _read(self, uri: str, account: str) -> bytes:
        if uri[:5].lower() == "data:":
            content = decode_data_uri(uri)
        else:
            own = self._read_own(uri, account)
            content = own if own is not None else await self._fetch(uri)
        if not content:
            raise Unreadable("the file is empty")
        return content

    def _read_own(self, uri: str, account: str) -> bytes | None:
        """A file that the double itself keeps; ``None`` when the URL leads elsewhere."""
        for site in self._world.sites:
            if uri.startswith(f"{site.api_url}/files/"):
                file_id = urlsplit(uri).path.removeprefix("/v1/files/").removesuffix("/download")
                upload = self._world.find_upload(file_id)
                if upload is None or upload.account != account:
                    raise Unreadable("there is no such file")
                return upload.content
            if uri.startswith(f"{site.delivery_url}/"):
                output = self._world.find_output(uri.removeprefix(f"{site.delivery_url}/"))
                if output is None:
                    raise Unreadable("the file is gone")
                return output.file.content
        return None

    async def _fetch(self, url: str) -> bytes:
        self._world.counts["input_fetches"] += 1
        if self._client is None:
            options = self._world.options
            self._client = client_trusting(str(options.fetch_ca) if options.fetch_ca else None)
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                return await self._follow(self._client, url)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise Unreadable(f"the fetch failed ({type(error).__name__})") from error

    async def _follow(self, client: httpx.AsyncClient, url: str) -> bytes:
        request = client.build_request("GET", url)
        for _ in range(MAX_REDIRECTS + 1):
            if self._world.options.is_loopback_only and not await is_loopback(str(request.url)):
                raise Unreadable("it lies beyond loopback")
            answer = await client.send(request, stream=True)
            try:
                if answer.next_request is not None:
                    request = answer.next_request
                    continue
                if answer.status_code != 200:
                    raise Unreadable(f"the fetch was answered with {answer.status_code}")
                content = bytearray()
                async for part in answer.aiter_bytes():
                    content += part
                    if len(content) > self._world.options.max_file_bytes:
                        raise Unreadable("it is too large")
                return bytes(content)
            finally:
                await answer.aclose()
        raise Unreadable("it leads from one place to the next")


def decode_data_uri(uri: str) -> bytes:
    """The bytes of a data URI, whatever its media type (RFC 2397).

    Raises:
        Unreadable: it is none.
    """
    head, comma, body = uri.partition(",")
    if not comma:
        raise Unreadable("the data URI has no data")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(unquote_to_bytes(body), validate=True)
    except binascii.Error:
        raise Unreadable("the data URI is not base64") from None


def client_trusting(ca: str | None) -> httpx.AsyncClient:
    """A client for hosts that others name: no environment, no redirects of its own, authorities from ``ca``.

    Each request has a connection of its own: one that the other side closed meanwhile would be an attempt that failed.
    """
    context = ssl.create_default_context(cafile=ca) if ca else httpx.create_ssl_context(trust_env=False)
    return httpx.AsyncClient(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        timeout=FETCH_TIMEOUT_S,
        limits=httpx.Limits(max_keepalive_connections=0),
    )


async def is_loopback(url: str) -> bool:
    """Whether every address of the URL's host is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)
