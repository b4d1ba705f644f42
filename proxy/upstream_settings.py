"""``[[upstream]]`` tables: the model services, as they are written down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from proxy.settings_types import HttpOrigin, HttpUrl, Section

REPLICATE_API = "https://api.replicate.com/v1"


class _UpstreamBase(Section):
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="Name in keys, logs and metrics; changing it empties the cache.",
    )
    models: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="Globs over `owner/name`; the first upstream with a match serves a model. One that begins with "
        "`deployments/` is over `deployments/owner/name`; a deployment that no such glob names is the first "
        "`replicate` upstream's.",
    )


class ReplicateUpstreamSettings(_UpstreamBase):
    """Any Replicate-compatible API."""

    kind: Literal["replicate"]
    base_url: HttpUrl = Field(default=REPLICATE_API, description="Root of the API, ending in `/v1`.")
    token: SecretStr | None = Field(
        default=None,
        description="The API's token that Hotplate holds, for `auth.mode` `gateway` and `open`. No client sees it.",
    )
    deadline_s: float = Field(default=2100.0, gt=0, description="Seconds after which a run is given up.")
    webhooks: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the API is asked to tell by webhooks how runs go, so that Hotplate need not keep asking: "
        "`auto` = where `public.base_url` is https at an address that can be public; `on` = always, under whatever "
        "address this proxy has; `off` = never. Where they do not arrive, Hotplate asks as without.",
    )
    output_hosts: tuple[str, ...] = Field(
        default=("replicate.delivery", "*.replicate.delivery"), description="Hosts from which outputs may be fetched."
    )
    output_origins: tuple[HttpOrigin, ...] = Field(
        default=(),
        description="Further origins for outputs and streams, e.g. `http://10.0.0.5:9000`; named here, they may be "
        "private.",
    )
    input_origins: tuple[HttpOrigin, ...] = Field(
        default=(),
        description="Origins from which file inputs may be fetched although they are private or plain http, e.g. "
        "`http://10.0.0.5:9000`. Public https addresses need no naming.",
    )


_TELLS_PROGRESS = Field(
    default=True,
    description="Whether the model's servers are asked to tell logs and outputs of a run while it goes on (by Cog's "
    "webhooks). What a run gave is told by its own answer either way. It costs a run some 5 ms: switch it off for a "
    "model that needs hardly longer.",
)


class CogUpstreamSettings(_UpstreamBase):
    """The user's own Cog servers for one model."""

    kind: Literal["cog"]
    urls: tuple[HttpUrl, ...] = Field(min_length=1, description="Base URLs of Cog servers that run the same model.")
    slots: int = Field(default=1, ge=1, le=64, description="Predictions that each server runs at once.")
    deadline_s: float = Field(default=600.0, gt=0, description="Seconds after which a run is given up.")
    queue_limit: int = Field(
        default=1000, ge=1, description="Most runs that may wait for a server; with them wait at most 512 MiB of input."
    )
    live_progress: bool = _TELLS_PROGRESS
    progress_url: HttpUrl | None = Field(
        default=None,
        description="The address under which the servers reach this proxy's admin listener, e.g. "
        "`http://10.0.0.9:8485`, for their webhooks; whoever reads these on the way can show other logs and outputs of "
        "a run under way, but nothing of that becomes a result. Default: servers on loopback find it, others are not "
        "asked.",
    )
    revision: str = Field(default="", description="Tag of the weights; changing it changes the version and every key.")
    input_origins: tuple[HttpOrigin, ...] = Field(
        default=(),
        description="Origins from which file inputs may be fetched although they are private or plain http, e.g. "
        "`http://10.0.0.5:9000`. Public https addresses need no naming.",
    )


class LocalUpstreamSettings(_UpstreamBase):
    """A Cog model that Hotplate starts and stops itself."""

    kind: Literal["local"]
    path: Path | None = Field(default=None, description="Folder of the model (`cog.yaml`); default: the demo model.")
    max_copies: int = Field(default=2, ge=1, le=64, description="Most copies of the model that run at once.")
    idle_timeout_s: float = Field(
        default=300.0, gt=0, description="Seconds without work after which a copy is stopped."
    )
    boot_deadline_s: float = Field(default=300.0, gt=0, description="Seconds in which a copy must become ready.")
    deadline_s: float = Field(default=600.0, gt=0, description="Seconds after which a run is given up.")
    queue_limit: int = Field(
        default=1000, ge=1, description="Most runs that may wait for a copy; with them wait at most 512 MiB of input."
    )
    live_progress: bool = _TELLS_PROGRESS
    revision: str = Field(default="", description="Tag of the weights; changing it changes the version and every key.")
    simulated_download_s: float = Field(
        default=0.0, ge=0, description="Pretended download of weights before a boot; shown apart, never as part of it."
    )
    input_origins: tuple[HttpOrigin, ...] = Field(
        default=(),
        description="Origins from which file inputs may be fetched although they are private or plain http, e.g. "
        "`http://10.0.0.5:9000`. Public https addresses need no naming.",
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Further environment variables for the model."
    )


UpstreamSettings = Annotated[
    ReplicateUpstreamSettings | CogUpstreamSettings | LocalUpstreamSettings, Field(discriminator="kind")
]
