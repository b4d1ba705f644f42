"""Uploaded files: create, list, get, delete, download; each belongs to its account."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time

import orjson
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from loadtests.fake_model.catalog import JsonObject
from loadtests.fake_model.documents import render_upload
from loadtests.fake_model.validation import complaint
from loadtests.fake_model.web import PROBLEM_JSON, Handlers, Problem, answer, parse_count, refuse
from loadtests.fake_model.wire import OVERSIZE
from loadtests.fake_model.world import Upload

MAX_NAME_BYTES = 255
USUAL_TYPE = "application/octet-stream"


class Files(Handlers):
    async def create(self, request: Request) -> Response:
        account = self.account(request)
        most = self.world.options.max_file_bytes
        if OVERSIZE in request.scope:
            raise _too_large(most)
        try:
            async with request.form(max_files=4, max_fields=16) as form:
                upload = await self._take(account, form)
        except HTTPException as error:
            raise Problem(400, str(error.detail), "Bad request") from None
        if len(upload.content) > most:
            raise _too_large(most)
        self.world.keep_upload(upload)
        self.world.counts["upload_bytes"] += len(upload.content)
        return answer(render_upload(upload, self.site), 201)

    async def _take(self, account: str, form: FormData) -> Upload:
        content = form.get("content")
        if not isinstance(content, UploadFile):
            raise refuse([complaint("required", "content", "content is required")])
        name = await _text(form, "filename") or content.filename or "file"
        if len(name.encode()) > MAX_NAME_BYTES:
            raise refuse([complaint("string_lte", "filename", f"Must be at most {MAX_NAME_BYTES} bytes")])
        now, body = time.time(), await content.read()
        return Upload(
            id=base64.urlsafe_b64encode(secrets.token_bytes(36)).decode(),
            account=account,
            name=name,
            content_type=await _text(form, "type") or content.content_type or USUAL_TYPE,
            content=body,
            metadata=_parse_metadata(await _text(form, "metadata")),
            created_at=now,
            expires_at=now + self.world.options.file_ttl_s,
            md5=hashlib.md5(body, usedforsecurity=False).hexdigest(),
            sha256=hashlib.sha256(body).hexdigest(),
        )

    def _find(self, request: Request) -> Upload:
        account = self.account(request)
        upload = self.world.find_upload(request.path_params["id"])
        if upload is None or upload.account != account:
            raise _not_found()
        return upload

    async def get(self, request: Request) -> Response:
        return answer(render_upload(self._find(request), self.site), headers={"ratelimit-remaining": "2999"})

    async def delete(self, request: Request) -> Response:
        del self.world.uploads[self._find(request).id]
        return Response(status_code=204)

    async def index(self, request: Request) -> Response:
        account, now = self.account(request), time.time()
        mine = [each for each in reversed(self.world.uploads.values()) if each.account == account]
        alive = [each for each in mine if each.expires_at > now]
        return self.page(request, alive, lambda each: each.id, lambda each: render_upload(each, self.site))

    async def download(self, request: Request) -> Response:
        """The bytes, for whoever holds a signature; no token is asked for."""
        query = request.query_params
        upload = self.world.find_upload(request.path_params["id"])
        owner, expiry, signature = (query.get(name, "") for name in ("owner", "expiry", "signature"))
        due_at = parse_count(expiry, 2**63 - 1)
        if upload is None or upload.account != owner or due_at is None or due_at <= time.time():
            raise _not_found()
        if not hmac.compare_digest(sign_download(owner, upload.id, due_at).encode(), signature.encode()):
            raise _not_found()
        return Response(upload.content, headers={"content-type": upload.content_type})


def files_secret(account: str) -> bytes:
    """Signing secret of an account's downloads, the same in every process."""
    return hashlib.sha256(f"files of {account}".encode()).hexdigest().encode()


def sign_download(account: str, file_id: str, expiry: int) -> str:
    """Base64 of HMAC-SHA256 over ``"{owner} {id} {expiry}"``, as the API's document says."""
    told = f"{account} {file_id} {expiry}".encode()
    return base64.b64encode(hmac.digest(files_secret(account), told, "sha256")).decode()


async def _text(form: FormData, name: str) -> str | None:
    """A field; some clients send it as a file of its own."""
    value = form.get(name)
    if isinstance(value, UploadFile):
        return (await value.read()).decode("utf-8", "replace")
    return value


def _parse_metadata(text: str | None) -> JsonObject:
    try:
        document = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise refuse([complaint("invalid_type", "metadata", "Must be a JSON object")])
    return document


def _not_found() -> Problem:
    return Problem(404, "File not found", headers={"content-type": PROBLEM_JSON})


def _too_large(most: int) -> Problem:
    size = f"{most >> 20}MB" if most >= 1 << 20 else f"{most} bytes"
    return Problem(413, f"Files must be less than {size} in size", headers={"content-type": PROBLEM_JSON})
