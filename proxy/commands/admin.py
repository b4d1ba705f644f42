"""The running proxy's admin listener, as commands ask it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from proxy.settings import Settings, SettingsError, load_settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; default: HOTPLATE_CONFIG, or hotplate.toml here.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

TIMEOUT_S = 30.0


class Refused(SettingsError):
    """The proxy answered with an error; ``detail`` is its own sentence."""

    def __init__(self, status: int, text: str, detail: str) -> None:
        super().__init__(text)
        self.status = status
        self.detail = detail


class AdminListener:
    """Asks the proxy that the settings describe, in the name of a command."""

    def __init__(self, settings: Settings, command: str) -> None:
        self._command = command
        host = f"[{settings.admin.host}]" if ":" in settings.admin.host else settings.admin.host
        self._root = f"http://{host}:{settings.admin.port}/_hotplate/"
        self._headers: dict[str, str] = {}
        if settings.admin.token is not None:
            self._headers["Authorization"] = f"Bearer {settings.admin.token.get_secret_value()}"

    def ask(
        self,
        path: str,
        *,
        post: Any = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """The JSON document at ``path`` below ``/_hotplate/``; with ``post`` or ``content`` it is posted to.

        Raises:
            SettingsError: no proxy answers there.
            Refused: it answers with an error.
        """
        if post is not None:
            content = json.dumps(post).encode()
        url = self._root + path
        try:
            answer = httpx.request(
                "GET" if content is None else "POST",
                url,
                content=content,
                headers={**self._headers, **(headers or {})},
                timeout=timeout_s,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise SettingsError(f"{self._command}: no proxy answers at {url}: start it with hotplate serve") from error
        try:
            document = answer.json()
        except ValueError as error:
            raise SettingsError(f"{self._command}: something else answers at {url}: correct admin.port") from error
        if answer.is_error:
            told = document if isinstance(document, dict) else {}
            detail = str(told.get("detail", ""))
            raise Refused(answer.status_code, f"{self._command}: {told.get('title')}: {detail}".strip(), detail)
        return document


def caller_headers(token: str | None) -> dict[str, str]:
    """What names the caller whose results are meant: ``token``, or else ``REPLICATE_API_TOKEN``."""
    token = token or os.environ.get("REPLICATE_API_TOKEN")
    return {"X-Explain-Authorization": f"Bearer {token}"} if token else {}


def open_listener(config: Path | None, command: str) -> AdminListener:
    """The admin listener of the proxy that the settings describe.

    Raises:
        SettingsError: they cannot be read.
    """
    return AdminListener(load_settings(config), command)
