"""What a client's environment needs so that it talks to this proxy; for ``hotplate env`` and ``hotplate run``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Literal

from proxy.settings import Settings

Format = Literal["sh", "fish", "json"]


def listening_url(settings: Settings) -> str:
    """The public address that clients use, from the settings alone."""
    if settings.public.base_url is not None:
        return settings.public.base_url
    host = settings.public.host
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "localhost"
    name = f"[{host}]" if ":" in host else host
    return f"{settings.scheme}://{name}:{settings.public.port}"


def client_environment(base_url: str, ca_file: Path | None, ca_bundle_file: Path | None) -> dict[str, str]:
    """Variables by name.

    Args:
        base_url: the public address, without ``/v1``: the Python clients of both generations and Go's take it so.
        ca_file: our authority alone, for clients that add it to their own roots (Node).
        ca_bundle_file: the usual roots plus ours, for clients whose variable replaces the trust store.
    """
    variables = {"REPLICATE_BASE_URL": base_url}
    if ca_file is not None and ca_bundle_file is not None:
        variables["NODE_EXTRA_CA_CERTS"] = str(ca_file)
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            variables[name] = str(ca_bundle_file)
    return variables


def render_environment(variables: dict[str, str], form: Format) -> str:
    """The variables as text for a shell, or as JSON."""
    if form == "json":
        return json.dumps(variables, indent=2)
    line = "set -gx {} {}" if form == "fish" else "export {}={}"
    lines = [line.format(name, shlex.quote(value)) for name, value in variables.items()]
    base = variables["REPLICATE_BASE_URL"]
    lines += [
        "# Python and Go read these variables. JavaScript reads none for the address:",
        f'#   new Replicate({{ auth, baseUrl: "{base}/v1" }})',
        f'#   createReplicate({{ baseURL: "{base}/v1" }})',
    ]
    return "\n".join(lines)
