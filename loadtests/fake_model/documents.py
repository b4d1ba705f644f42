"""What the API shows of its things, with the URLs of the site that asks."""

from __future__ import annotations

from loadtests.fake_model.catalog import JsonObject, Model
from loadtests.fake_model.registry import MODELS_SINCE, Deployment, Entry
from loadtests.fake_model.sites import Site
from loadtests.fake_model.world import Prediction, Upload, World, format_time, locate


def render(world: World, prediction: Prediction, site: Site) -> JsonObject:
    """A prediction or a training."""
    if prediction.destination is not None:
        return render_training(prediction, site)
    return render_prediction(world, prediction, site)


def render_prediction(world: World, prediction: Prediction, site: Site) -> JsonObject:
    url = f"{site.api_url}/predictions/{prediction.id}"
    stream = f"{site.stream_url}/v1/{'files' if prediction.model.makes_files else 'streams'}/{prediction.stream_id}"
    is_removed = world.is_removed(prediction)
    document: JsonObject = {
        "id": prediction.id,
        "model": prediction.model.full_name,
        "version": "hidden" if prediction.model.is_official else prediction.model.version,
        "input": {} if is_removed else prediction.input,
        "logs": "" if is_removed else prediction.logs,
        "output": None if is_removed else locate(prediction.output, site),
        "data_removed": is_removed,
        "error": prediction.error,
        "source": prediction.source,
        "status": prediction.status,
        "created_at": format_time(prediction.created_at),
        "urls": {
            "get": url,
            "cancel": f"{url}/cancel",
            "stream": stream,
            "web": f"https://replicate.com/p/{prediction.id}",
        },
    }
    if prediction.deployment is not None:
        document["deployment"] = prediction.deployment
    return {**document, **_times(prediction)}


def render_training(training: Prediction, site: Site) -> JsonObject:
    url = f"{site.api_url}/trainings/{training.id}"
    return {
        "id": training.id,
        "model": training.model.full_name,
        "version": training.model.version,
        "input": training.input,
        "logs": training.logs,
        **({} if training.output is None else {"output": training.output}),
        "error": training.error,
        "source": training.source,
        "status": training.status,
        "created_at": format_time(training.created_at),
        "urls": {"get": url, "cancel": f"{url}/cancel", "web": f"https://replicate.com/p/{training.id}"},
        **_times(training),
    }


def _times(prediction: Prediction) -> JsonObject:
    document: JsonObject = {}
    if prediction.deadline is not None:
        document["deadline"] = format_time(prediction.deadline)
    if prediction.started_at is not None:
        document["started_at"] = format_time(prediction.started_at)
    if prediction.completed_at is not None:
        document["completed_at"] = format_time(prediction.completed_at)
        document["metrics"] = prediction.metrics
    return document


def render_version(model: Model) -> JsonObject:
    return {
        "id": model.version,
        "created_at": format_time(model.created_at or MODELS_SINCE),
        "cog_version": "0.16.0",
        "openapi_schema": model.openapi(),
    }


def render_model(entry: Entry) -> JsonObject:
    about = {name: entry.about.get(name) for name in ABOUT}
    return {
        "url": f"https://replicate.com/{entry.full_name}",
        "owner": entry.owner,
        "name": entry.name,
        "visibility": entry.visibility,
        "is_official": entry.is_official,
        **about,
        "run_count": entry.run_count,
        "default_example": None,
        "latest_version": render_version(entry.versions[0]) if entry.versions else None,
    }


ABOUT = ("description", "github_url", "paper_url", "license_url", "cover_image_url")
"""What an account may say of its model."""


def render_deployment(deployment: Deployment) -> JsonObject:
    kind = "user" if deployment.account else "organization"
    release = {
        "number": deployment.number,
        "model": deployment.model.full_name,
        "version": deployment.model.version,
        "created_at": format_time(deployment.created_at),
        "created_by": {"type": kind, "username": deployment.owner, "name": deployment.owner.title()},
        "configuration": {
            "hardware": deployment.hardware,
            "min_instances": deployment.min_instances,
            "max_instances": deployment.max_instances,
        },
    }
    return {"owner": deployment.owner, "name": deployment.name, "current_release": release}


def render_upload(upload: Upload, site: Site) -> JsonObject:
    return {
        "id": upload.id,
        "name": upload.name,
        "content_type": upload.content_type,
        "size": len(upload.content),
        "etag": upload.md5,
        "checksums": {"sha256": upload.sha256, "md5": upload.md5},
        "metadata": upload.metadata,
        "created_at": format_time(upload.created_at),
        "expires_at": format_time(upload.expires_at),
        "urls": {"get": f"{site.api_url}/files/{upload.id}"},
    }
