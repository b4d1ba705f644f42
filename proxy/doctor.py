"""``hotplate doctor``: one line a check, and one remedy for each that fails."""

from __future__ import annotations

import email.utils
import os
import shutil
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from proxy import tls
from proxy.clientenv import listening_url
from proxy.settings import Settings, is_loopback
from proxy.upstream_settings import ReplicateUpstreamSettings

SLOW_FSYNC_S = 0.05
"""A slower one delays every miss by more than a person notices."""

FSYNC_TRIES = 5
"""The median of some: another program's writes make a single one slow."""

LOW_DISK_BYTES = 1024**3
CLOCK_SKEW_S = 60.0
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing. ``remedy`` is ``""`` when all is well."""

    name: str
    is_ok: bool
    detail: str
    remedy: str = ""


def diagnose(settings: Settings, token: str | None) -> Iterator[Finding]:
    """Check everything, yielding each finding as soon as it is known; nothing raises.

    Args:
        token: a credential for the Replicate upstream, to be checked there; ``None`` when there is none.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("folder", partial(_folder, settings)),
        ("disk", partial(_disk, settings)),
        ("fsync", partial(_fsync, settings)),
        ("public URL", partial(_public_url, settings)),
        ("trust", partial(_trust, settings)),
        ("proxy", partial(_proxy, settings)),
        ("clock", partial(_clock, settings)),
    ]
    for upstream in settings.upstream:
        if isinstance(upstream, ReplicateUpstreamSettings):
            checks.append((upstream.name, partial(_replicate, upstream)))
            held = upstream.token.get_secret_value() if upstream.token is not None else None
            checks.append(("credential", partial(_credential, upstream, held or token)))
        elif upstream.kind == "cog":
            for url in upstream.urls:
                checks.append((upstream.name, partial(_cog, upstream.name, url)))
        else:
            checks.append((upstream.name, partial(_local, upstream.name, upstream.path)))
    if settings.auth.mode != "passthrough" or any(upstream.kind != "replicate" for upstream in settings.upstream):
        checks.append(("own tokens", partial(_own_tokens, settings)))
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {error}", "see the message")


def _folder(settings: Settings) -> Finding:
    path = settings.data_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".doctor-"):
            pass
    except OSError as error:
        return Finding("folder", False, f"{path}: {error.strerror}", "make data_dir a folder that this user may write")
    mode = path.stat().st_mode & 0o077
    if mode:
        return Finding("folder", False, f"{path} can be read by other users", f"chmod 700 {path}")
    return Finding("folder", True, str(path))


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.data_dir).free
    detail = f"{free / 1024**3:.1f} GiB free, {settings.storage.max_bytes / 1024**3:.1f} GiB allowed"
    if free < LOW_DISK_BYTES:
        return Finding("disk", False, detail, "free some space, or set storage.max_bytes lower")
    return Finding("disk", True, detail)


def _fsync(settings: Settings) -> Finding:
    with tempfile.NamedTemporaryFile(dir=settings.data_dir, prefix=".doctor-") as file:
        took = []
        for _ in range(FSYNC_TRIES):
            file.write(b"\0" * 65536)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
        took_s = statistics.median(took)
    detail = f"{took_s * 1000:.1f} ms for 64 kB"
    if took_s > SLOW_FSYNC_S:
        return Finding("fsync", False, detail, "put data_dir on a local disk, or set storage.durability = 'fast'")
    return Finding("fsync", True, detail)


def _public_url(settings: Settings) -> Finding:
    url = listening_url(settings)
    host = urlsplit(url).hostname or ""
    if settings.public.base_url is None and not is_loopback(settings.public.host):
        return Finding("public URL", False, f"{url} is guessed", "set public.base_url to the address that clients use")
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return Finding("public URL", False, f"{host}: {error}", "make the name resolve, or correct public.base_url")
    if url.startswith("http://") and settings.cache.output_urls == "url":
        return Finding(
            "public URL",
            False,
            f"{url} is plain http, and output_urls = 'url'",
            "use TLS, or output_urls = 'auto': clients make no file objects of http addresses",
        )
    return Finding("public URL", True, url)


def _trust(settings: Settings) -> Finding:
    if settings.tls.mode == "off":
        return Finding("trust", True, "plain http on this listener, nothing to trust")
    if settings.tls.mode == "files":
        assert settings.tls.cert_file is not None
        assert settings.tls.key_file is not None
        files = tls.given_files(settings.tls.cert_file, settings.tls.key_file)
        return Finding("trust", True, f"certificate valid for {(files.not_after - time.time()) / 86400:.0f} more days")
    files = tls.LocalAuthority(settings.data_dir / "tls", settings.tls.names).ensure()
    given = os.environ.get("SSL_CERT_FILE")
    if given != str(files.ca_bundle_file):
        return Finding(
            "trust",
            False,
            "this shell does not trust the local authority",
            'eval "$(hotplate env)", with the same options',
        )
    return Finding("trust", True, f"SSL_CERT_FILE is {given}")


def _proxy(settings: Settings) -> Finding:
    url = listening_url(settings)
    verify: ssl.SSLContext | bool = True
    bundle = settings.data_dir / "tls" / "ca-bundle.pem"
    if settings.tls.mode == "local-ca" and bundle.is_file():
        verify = ssl.create_default_context(cafile=str(bundle))
    try:
        answer = httpx.get(f"{url}/outputs/", verify=verify, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        return Finding("proxy", False, f"{url}: {error or type(error).__name__}", "start it: hotplate serve")
    if "x-request-id" not in answer.headers:
        return Finding("proxy", False, f"something else answers at {url}", "correct public.base_url or public.port")
    return Finding("proxy", True, f"answers at {url}")


def _replicate(upstream: ReplicateUpstreamSettings) -> Finding:
    try:
        answer = httpx.get(f"{upstream.base_url}/account", timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        detail = f"{upstream.base_url}: {error or type(error).__name__}"
        return Finding(upstream.name, False, detail, f"correct base_url of upstream {upstream.name!r}, or the network")
    detail = f"{upstream.base_url} answers ({answer.status_code} without a credential)"
    if answer.status_code not in (200, 401, 403):
        return Finding(upstream.name, False, detail, f"correct base_url of upstream {upstream.name!r}")
    return Finding(upstream.name, True, detail)


def _credential(upstream: ReplicateUpstreamSettings, token: str | None) -> Finding:
    if not token:
        return Finding("credential", False, "REPLICATE_API_TOKEN is not set here", "export REPLICATE_API_TOKEN=r8_...")
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = httpx.get(f"{upstream.base_url}/account", headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        return Finding("credential", False, f"cannot be asked: {type(error).__name__}", "first mend the upstream above")
    if answer.status_code in (401, 403):
        return Finding("credential", False, f"{upstream.name} refuses it", "make a new token and export it")
    return Finding("credential", answer.is_success, f"{upstream.name} answers {answer.status_code}", "try again later")


def _clock(settings: Settings) -> Finding:
    """Against the first Replicate upstream that tells the time, and against the data folder's disk."""
    with tempfile.NamedTemporaryFile(dir=settings.data_dir, prefix=".doctor-") as file:
        skews_s = {"the data folder's disk": time.time() - os.stat(file.name).st_mtime}
    for upstream in settings.upstream:
        if isinstance(upstream, ReplicateUpstreamSettings):
            try:
                answer = httpx.get(f"{upstream.base_url}/account", timeout=TIMEOUT_S, trust_env=False)
                there = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
            except (httpx.HTTPError, KeyError, ValueError):
                continue
            skews_s[upstream.name] = time.time() - there
            break
    detail = ", ".join(f"{skew_s:+.0f} s against {name}" for name, skew_s in skews_s.items())
    if any(abs(skew_s) > CLOCK_SKEW_S for skew_s in skews_s.values()):
        return Finding("clock", False, detail, "synchronise this machine's clock (NTP)")
    return Finding("clock", True, detail)


def _own_tokens(settings: Settings) -> Finding:
    if settings.auth.mode == "open":
        whom = "everybody who reaches it" if settings.auth.open_to_all else "everybody on this machine"
        return Finding("own tokens", True, f"none are needed: the proxy is open to {whom}")
    if settings.auth.mode == "gateway":
        return Finding("own tokens", True, "clients need one: hotplate tokens list shows them")
    if settings.auth.tokens:
        return Finding("own tokens", True, f"{len(settings.auth.tokens)} set; models without accounts need one")
    return Finding("own tokens", True, "none set; models without accounts are open to everybody on this machine")


def _cog(name: str, url: str) -> Finding:
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health-check", timeout=TIMEOUT_S, trust_env=False)
        state = answer.json()["status"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return Finding(name, False, f"{url}: {error or type(error).__name__}", "start the Cog server, or correct urls")
    is_ok = state in ("READY", "BUSY", "STARTING")
    return Finding(name, is_ok, f"{url} is {state}", "" if is_ok else "look at the Cog server's log and restart it")


def _local(name: str, path: Path | None) -> Finding:
    if path is None:
        return Finding(name, True, "the demo model")
    if not (path / "cog.yaml").is_file():
        return Finding(name, False, f"{path} has no cog.yaml", f"correct path of upstream {name!r}")
    if not (path / ".cog" / "openapi_schema.json").is_file():
        return Finding(name, False, f"{path} has no .cog/openapi_schema.json", "run `cog build` there once")
    return Finding(name, True, str(path))
