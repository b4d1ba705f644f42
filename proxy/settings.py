"""All settings, in one frozen tree that is read once at start and handed down.

Sources, the first that names a value wins: arguments of the command line, ``HOTPLATE_SECTION__NAME``
environment variables, the TOML file (``--config``, ``HOTPLATE_CONFIG``, or ``hotplate.toml`` in the
current folder), the defaults. Nothing else in the project reads the environment.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import (
    ByteSize,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from proxy.core.entitlement import AuthMode, Groups
from proxy.core.policy import PolicyBook
from proxy.policy_settings import PolicySettings
from proxy.settings_types import BASE_URL, HOST_PATTERN, HttpOrigin, Section
from proxy.upstream_settings import ReplicateUpstreamSettings, UpstreamSettings
from storage.settings import StorageSettings

DEFAULT_PORT = 8484
DEFAULT_ADMIN_PORT = 8485


OutputUrls = Literal["auto", "url", "data"]


class SettingsError(Exception):
    """A setting is wrong; the text is one line that names the field and what it may be."""


def _check_token(token: SecretStr) -> None:
    """An empty or short token protects nothing, and one that no header can carry opens nothing."""
    text = token.get_secret_value()
    if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a token must have at least 16 characters, ASCII and without spaces")


class PublicSettings(Section):
    """The listener that clients use."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    base_url: str | None = Field(
        default=None,
        description="The address under which clients reach this listener, e.g. `https://images.example.com`, without "
        "`/v1`. All URLs handed out begin with it. Default: made from scheme, host and port of the listener.",
    )

    @field_validator("base_url")
    @classmethod
    def _strip(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = value.rstrip("/").removesuffix("/v1")
        if not BASE_URL.fullmatch(value):
            raise ValueError("must be http:// or https://, a host, perhaps a port and a path, and nothing else")
        return value


class AdminSettings(Section):
    """The listener for the operator: `/livez`, `/readyz`, `/metrics`, `/_hotplate/*`."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=DEFAULT_ADMIN_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    token: SecretStr | None = Field(
        default=None,
        description="Bearer token that every admin request but `/livez` and `/readyz` must carry. Needed when the host "
        "is not loopback.",
    )

    @field_validator("token")
    @classmethod
    def _usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_token(value)
        return value


class TlsSettings(Section):
    """TLS on the public listener."""

    mode: Literal["off", "files", "local-ca"] = Field(
        default="off",
        description="`off` = plain http; `files` = the certificate files given here; `local-ca` = a certificate from a "
        "local authority that Hotplate makes in the data folder.",
    )
    cert_file: Path | None = Field(default=None, description="Certificate chain in PEM form, for `files`.")
    key_file: Path | None = Field(default=None, description="Private key in PEM form, for `files`.")
    names: tuple[str, ...] = Field(
        default=(), description="Further host names and addresses for the local authority's certificate."
    )

    @model_validator(mode="after")
    def _files_given(self) -> TlsSettings:
        if self.mode == "files" and (self.cert_file is None or self.key_file is None):
            raise ValueError("mode `files` needs cert_file and key_file")
        return self


class AuthSettings(Section):
    """Who may use the proxy, and who shares results with whom."""

    mode: AuthMode = Field(
        default="passthrough",
        description="`passthrough` = clients carry their own tokens of the API behind; `gateway` = Hotplate holds that "
        "token (`upstream.token`) and clients carry tokens of Hotplate's (`hotplate tokens`); `open` = Hotplate holds "
        "it and clients need none.",
    )
    open_to_all: bool = Field(
        default=False,
        description="Whether `open` is meant for other machines, too: everybody who reaches the listener then spends "
        "on the account behind the held token.",
    )
    tokens: tuple[SecretStr, ...] = Field(
        default=(),
        description="Hotplate's own tokens, for upstreams without accounts (`cog`, `local`). Needed when the public "
        "listener is not on loopback. As an environment variable: a JSON list.",
    )
    accept_for_s: float = Field(
        default=300.0,
        gt=0,
        le=3600,
        description="Seconds for which a credential that the upstream accepted may get hits.",
    )
    auth_stale_if_error_s: float = Field(
        default=86_400.0,
        ge=0,
        le=7 * 86_400,
        description="Seconds for which it may get them while the upstream cannot be asked (no answer, an error of the "
        "server's, too many requests), also across a restart. Less than `accept_for_s` counts as that.",
    )
    groups: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Groups that share results where a policy says `group:NAME`: by name their members, "
        "`account:NAME` (or `account:TYPE/NAME`) and `token:tok_…`, the id that `hotplate tokens id` shows.",
    )

    @field_validator("tokens")
    @classmethod
    def _usable(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for token in value:
            _check_token(token)
        return value

    @field_validator("groups")
    @classmethod
    def _are_groups(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        Groups.of(value)
        return value


class CacheSettings(Section):
    """What is handed out and kept."""

    enabled: bool = Field(default=True, description="Whether repeats are answered from the cache at all.")
    output_urls: OutputUrls = Field(
        default="auto",
        description="How outputs are named in answers: `url` = addresses on this proxy; `data` = `data:` URLs; "
        "`auto` = `data:` URLs up to `data_url_max_bytes` where the public base URL is plain http (the Python and "
        "JavaScript clients make file objects only of `https:` and `data:`), else addresses.",
    )
    data_url_max_bytes: ByteSize = Field(
        default=ByteSize(4 * 1024**2), description="Largest file given as a `data:` URL."
    )
    output_max_bytes: ByteSize = Field(default=ByteSize(256 * 1024**2), description="Largest output file that is kept.")
    spool_bytes: ByteSize = Field(
        default=ByteSize(128 * 1024**2),
        description="Memory for outputs that could not be stored; each is served from there for up to an hour.",
    )
    remote_inputs: Literal["hash", "bypass"] = Field(
        default="hash",
        description="What becomes of an input whose file is given by a URL of somebody else: `hash` = Hotplate fetches "
        "it (32 MB, 5 s), keys it by its bytes and sends these very bytes; `bypass` = such inputs are not cached.",
    )
    by_url_hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts, exact or `*.suffix`, whose URLs are keyed by their text and not fetched: what stands "
        "behind such a URL must never change.",
    )

    @field_validator("by_url_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not HOST_PATTERN.fullmatch(host):
                raise ValueError(f"{host!r} must be a host name in lower case or *.suffix, without scheme and port")
        return value


class LimitSettings(Section):
    """Bounds on what a client may make the proxy do."""

    max_body_bytes: ByteSize = Field(default=ByteSize(16 * 1024**2), description="Largest body of a create request.")
    max_arriving_bytes: ByteSize = Field(
        default=ByteSize(512 * 1024**2),
        description="Most bytes of create requests on their way in, in all; beyond it large ones are answered 503 with "
        "`Retry-After`.",
    )
    max_waiters: int = Field(
        default=10_000,
        ge=1,
        description="Most requests that may wait for runs at once. One more is answered `starting` without waiting; "
        "no reader of a stream more is taken (503).",
    )
    max_waiters_per_run: int = Field(
        default=2_000, ge=1, description="The same for the requests that wait for one and the same run."
    )
    max_runs_per_caller: int = Field(
        default=0,
        ge=0,
        description="Most runs that one caller's requests may have on their way; beyond it a miss is answered 429 with "
        "`Retry-After`, while hits and shared runs are not bounded. 0 = no bound. All callers of an upstream that is "
        "open to everybody are one.",
    )
    new_runs_per_minute_per_caller: int = Field(
        default=0, ge=0, description="Likewise, new runs in a minute; a minute's worth may come at once. 0 = no bound."
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        description="Most connections that a listener has open, in each of several workers; one more is answered 503 "
        "and closed. Fewer where the process may not open so many files.",
    )
    head_timeout_s: float = Field(
        default=15.0, gt=0, le=3600, description="Seconds that a request's line and headers may take."
    )
    body_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds that a request's body may take, and one more for every 16 KiB of it; half of it is the "
        "longest pause that is always allowed.",
    )
    send_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds in which a client must take 64 KiB of an answer that waits for it, or what is left.",
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds for requests in flight to end after SIGTERM."
    )

    @model_validator(mode="after")
    def _has_room_for_one(self) -> LimitSettings:
        if self.max_arriving_bytes < self.max_body_bytes:
            raise ValueError("max_arriving_bytes must be at least max_body_bytes")
        return self


class WorkerSettings(Section):
    """Processes that serve together, on one machine and one data folder."""

    count: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that take requests. With more than one, these answer hits and stored files, and another "
        "process runs the models and answers everything else; about one for each core of the machine is right.",
    )
    core_wait_s: float = Field(
        default=15.0,
        ge=0,
        description="Seconds for which a request waits while that other process is started anew, before it is answered "
        "503.",
    )

    @property
    def lanes(self) -> int:
        """Processes that make ids."""
        return 1 if self.count == 1 else self.count + 1


class MoneySettings(Section):
    """How money is shown in the ledger."""

    currency: str = Field(
        default="USD",
        pattern=r"^[A-Z]{3}$",
        description="Currency of every price given to Hotplate, three letters. Nothing is ever converted.",
    )
    storage_price_per_gb_month: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Price of a gigabyte (10^9 bytes) on the disk for a month; it is taken off what was earned.",
    )


class LogSettings(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is written."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto` = console on a terminal, else one JSON object a line."
    )


class WebhookSettings(Section):
    """News of predictions, sent by Hotplate itself to the addresses that clients name."""

    enabled: bool = Field(
        default=True,
        description="Whether Hotplate sends webhooks. Where not, a create with a webhook goes past the cache to a "
        "`replicate` upstream, and `cog` and `local` models refuse it.",
    )
    origins: tuple[HttpOrigin, ...] = Field(
        default=(),
        description="Origins that may be called although they are private, plain http or on another port, e.g. "
        "`http://10.0.0.5:9000`. Public https addresses need no naming.",
    )
    timeout_s: float = Field(
        default=10.0, gt=0, le=60, description="Seconds in which a receiver must have answered one delivery."
    )


def _default_upstreams() -> tuple[UpstreamSettings, ...]:
    return (ReplicateUpstreamSettings(kind="replicate", name="replicate"),)


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix="HOTPLATE_", env_nested_delimiter="__", frozen=True, extra="forbid", populate_by_name=True
    )

    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("hotplate", appauthor=False)),
        description="Folder for everything that lasts: the store, the secret, certificates, environments of models. "
        "Default: the user's data folder.",
    )
    public: PublicSettings = PublicSettings()
    admin: AdminSettings = AdminSettings()
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    cache: CacheSettings = CacheSettings()
    limits: LimitSettings = LimitSettings()
    webhooks: WebhookSettings = WebhookSettings()
    workers: WorkerSettings = WorkerSettings()
    storage: StorageSettings = StorageSettings()
    money: MoneySettings = MoneySettings()
    log: LogSettings = LogSettings()
    upstream: tuple[UpstreamSettings, ...] = Field(
        default_factory=_default_upstreams,
        min_length=1,
        description="Model services, in order; default: Replicate's API for every model.",
    )

    policy: tuple[PolicySettings, ...] = Field(
        default=(), description="How models are cached, in order; what none of them matches has the defaults."
    )

    _read_anew: Callable[[], Settings] | None = PrivateAttr(default=None)
    _source: tuple[str | None, dict[str, Any]] | None = PrivateAttr(default=None)

    @field_validator("data_dir")
    @classmethod
    def _is_folder(cls, value: Path) -> Path:
        if value == Path():
            raise ValueError("must name a folder")
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _is_safe(self) -> Settings:
        names = [upstream.name for upstream in self.upstream]
        if len(set(names)) != len(names):
            raise ValueError("upstream: two upstreams have the same name")
        guarded = [upstream.name for upstream in self.upstream if upstream.kind != "replicate"]
        base_host = urlsplit(self.public.base_url or "").hostname or "localhost"
        reached = {"public.host": self.public.host, "public.base_url": base_host}
        self._check_held_tokens()
        self._check_prices()
        self._check_groups()
        for field, host in reached.items():
            if self.auth.mode == "open" and not is_loopback(host) and not self.auth.open_to_all:
                raise ValueError(
                    f"auth.open_to_all: must be true, because {field} ({host}) is not loopback and auth.mode is open"
                )
            if self.auth.mode != "passthrough":
                continue
            if guarded and not is_loopback(host) and not self.auth.tokens:
                raise ValueError(
                    f"auth.tokens: must be set, because {field} ({host}) is not loopback and upstream "
                    f"{guarded[0]!r} has no accounts of its own"
                )
        if not is_loopback(self.admin.host) and self.admin.token is None:
            raise ValueError(f"admin.token: must be set, because admin.host {self.admin.host!r} is not loopback")
        return self

    def _check_prices(self) -> None:
        # What a run costs does not depend on the base URL by which it was asked for.
        for number, one in enumerate(self.policy):
            for field in ("price_per_second", "price_per_output"):
                if one.name is not None and getattr(one, field):
                    raise ValueError(f"policy.{number}.{field}: must stand in a policy without a name")

    def _check_groups(self) -> None:
        for number, one in enumerate(self.policy):
            kind, _, group = one.scope.partition(":")
            # Own tokens may be of a group that the settings do not name.
            if kind == "group" and self.auth.mode == "passthrough" and group not in self.auth.groups:
                raise ValueError(f"policy.{number}.scope: auth.groups names no group {group!r}")

    def _check_held_tokens(self) -> None:
        for one in self.upstream:
            if not isinstance(one, ReplicateUpstreamSettings):
                continue
            if self.auth.mode != "passthrough" and one.token is None:
                raise ValueError(f"upstream.{one.name}.token: must be set, because auth.mode is {self.auth.mode}")
            if self.auth.mode == "passthrough" and one.token is not None:
                raise ValueError(
                    f"upstream.{one.name}.token: has no use while auth.mode is passthrough: clients carry their own"
                )

    def policy_book(self) -> PolicyBook:
        """All policies."""
        return PolicyBook([one.policy() for one in self.policy])

    @property
    def source(self) -> tuple[str | None, dict[str, Any]] | None:
        """The file and the overrides from which these were read, as JSON values; ``None`` if they were not read."""
        return self._source

    def _come_from(self, path: Path | None, overrides: dict[str, Any]) -> None:
        self._read_anew = lambda: load_settings(path, overrides)
        self._source = (str(path) if path is not None else None, overrides)

    def read_anew(self) -> Settings:
        """The settings as they would be read now, from where these came; those that were not read stay.

        Raises:
            SettingsError: see ``load_settings``.
        """
        return self._read_anew() if self._read_anew is not None else self

    @property
    def scheme(self) -> Literal["http", "https"]:
        """Scheme of the public listener itself."""
        return "http" if self.tls.mode == "off" else "https"


def is_loopback(host: str) -> bool:
    """Whether listening on ``host`` keeps other machines out. A name other than ``localhost`` is not trusted to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(config: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read the settings.

    Args:
        config: the TOML file; default ``HOTPLATE_CONFIG``, else ``hotplate.toml`` where it exists.
        overrides: values that win over everything else, nested as in the file.

    Raises:
        SettingsError: one line that names the field and what it may be.
    """
    path = config or (Path(os.environ["HOTPLATE_CONFIG"]) if os.environ.get("HOTPLATE_CONFIG") else None)
    if path is None and Path("hotplate.toml").is_file():
        path = Path("hotplate.toml")
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not a TOML file: {error}") from error

    class Given(Settings):  # the file's values arrive as the initial ones, and the environment wins over them
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return InitSettingsSource(settings_cls, overrides or {}), env_settings, init_settings

    try:
        settings = Given(**values)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from error
    except SourceError as error:
        raise SettingsError(str(error)) from error
    source = path.absolute() if path is not None else None
    settings._come_from(source, overrides or {})
    return settings


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
