"""Where model services are built from their tables in the settings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from proxy.settings import Settings, SettingsError, is_loopback
from proxy.upstream_settings import (
    CogUpstreamSettings,
    LocalUpstreamSettings,
    ReplicateUpstreamSettings,
    UpstreamSettings,
)
from proxy.upstreams.addresses import is_literal, is_public
from proxy.upstreams.base import Upstream
from proxy.upstreams.cog import CogSpec, CogUpstream
from proxy.upstreams.egress import Egress
from proxy.upstreams.holding import HoldingUpstream
from proxy.upstreams.hook_desk import HookDesk
from proxy.upstreams.local_cog import LocalCog, LocalCogSpec
from proxy.upstreams.news_desk import NewsDesk
from proxy.upstreams.replicate import ReplicateSpec, ReplicateUpstream
from storage.opening import Storage


def demo_model_dir() -> Path:
    """The demo model: carried in the wheel, or in ``deploy/`` of a checkout."""
    packaged = Path(__file__).parent / "demo-model"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "deploy" / "demo-model"


def build_upstream(
    one: UpstreamSettings, settings: Settings, storage: Storage, egress: Egress, desk: NewsDesk, hook_desk: HookDesk
) -> Upstream:
    """One model service.

    Raises:
        SettingsError: a local model's folder holds none.
    """
    if isinstance(one, ReplicateUpstreamSettings):
        api = ReplicateUpstream(
            ReplicateSpec(
                name=one.name,
                base_url=one.base_url,
                deadline_s=one.deadline_s,
                output_hosts=one.output_hosts,
                output_origins=one.output_origins,
            ),
            notes=storage.notes,
            egress=egress,
            desk=hook_desk if _is_told(one, settings) else None,
        )
        return HoldingUpstream(api, one.token.get_secret_value()) if one.token is not None else api
    if isinstance(one, CogUpstreamSettings):
        return CogUpstream(
            CogSpec(
                name=one.name,
                urls=one.urls,
                slots=one.slots,
                deadline_s=one.deadline_s,
                queue_limit=one.queue_limit,
                revision=one.revision,
                progress_url=one.progress_url,
                tells_progress=one.live_progress,
            ),
            memory=storage.notes,
            desk=desk,
        )
    return LocalCog(
        _local_spec(one),
        environments_dir=settings.data_dir / "envs",
        run_dir=settings.data_dir / "run" / one.name,
        memory=storage.notes,
        desk=desk,
    )


def _is_told(one: ReplicateUpstreamSettings, settings: Settings) -> bool:
    """Whether an API is asked to tell us how runs go: it must be able to reach the public listener."""
    if one.webhooks != "auto":
        return one.webhooks == "on"
    base = urlsplit(settings.public.base_url or "")
    host = base.hostname or "localhost"
    return base.scheme == "https" and not is_loopback(host) and (is_public(host) or not is_literal(host))


def _local_spec(one: LocalUpstreamSettings) -> LocalCogSpec:
    model_dir = one.path or demo_model_dir()
    if not (model_dir / "cog.yaml").is_file():
        raise SettingsError(f"upstream.{one.name}.path: {model_dir} has no cog.yaml")
    return LocalCogSpec(
        name=one.name,
        model_dir=model_dir,
        max_copies=one.max_copies,
        idle_timeout_s=one.idle_timeout_s,
        boot_deadline_s=one.boot_deadline_s,
        deadline_s=one.deadline_s,
        queue_limit=one.queue_limit,
        revision=one.revision,
        simulated_download_s=one.simulated_download_s,
        environment=tuple(sorted(one.environment.items())),
        tells_progress=one.live_progress,
    )
