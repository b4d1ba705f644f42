"""Writes ``docs/configuration.md`` from the settings' own descriptions: ``make docs``."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from proxy.policy_settings import PolicySettings
from proxy.settings import Settings
from proxy.upstream_settings import CogUpstreamSettings, LocalUpstreamSettings, ReplicateUpstreamSettings

TARGET = Path(__file__).parent / "configuration.md"

HEAD = """# Configuration

*Written by `make docs` from the settings themselves; edit `proxy/settings.py` and `storage/settings.py` instead.*

Settings are read once at start, policies also at a [reload](operating.md). The first source that names a value wins:
the command line's options, `HOTPLATE_SECTION__NAME` environment variables, the TOML file (`--config FILE`,
`HOTPLATE_CONFIG`, or `hotplate.toml` in the current folder), the defaults. Lists and tables in environment variables
are JSON, e.g. `HOTPLATE_AUTH__TOKENS='["…"]'`. A wrong setting stops the start with one line that names it.

```toml
# hotplate.toml: Replicate's API for everything, but one model on two servers of our own
[public]
host = "0.0.0.0"
base_url = "https://images.example.com"

[auth]
tokens = ["a-long-random-token-of-yours"]

[[upstream]]
name = "gpus"
kind = "cog"
models = ["acme/flux"]
urls = ["http://10.0.0.1:5000", "http://10.0.0.2:5000"]

[[upstream]]
name = "replicate"
kind = "replicate"
```
"""


def render() -> str:
    """The whole page."""
    parts = [HEAD, "## Top level\n", _table(Settings, "", skip_sections=True)]
    for name, field in Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            parts += [f"## `[{name}]`\n", f"{_first_line(model)}\n", _table(model, f"{name}.")]
    parts += ["## `[[policy]]`\n", f"{_first_line(PolicySettings)} See [policies](policies.md).\n"]
    parts.append(_table(PolicySettings, ""))
    parts.append(
        "## `[[upstream]]`\n\nOne table for each model service; the first whose `models` match serves a model.\n"
    )
    for model in (ReplicateUpstreamSettings, CogUpstreamSettings, LocalUpstreamSettings):
        parts += [f"### `kind = {get_args(model.model_fields['kind'].annotation)[0]!r}`\n".replace("'", '"')]
        parts += [f"{_first_line(model)}\n", _table(model, "")]
    return "\n".join(parts)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _table(model: type[BaseModel], prefix: str, *, skip_sections: bool = False) -> str:
    rows = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if name in ("kind", "upstream") or (
            skip_sections and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            continue
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {_type(field.annotation)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _type(annotation: Any) -> str:
    """A word for a type; annotated ones are the URLs."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return "URL"
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in get_args(annotation) if one is not type(None))
    if origin is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return f"table of {_type(get_args(annotation)[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path"}
    return {**names, ByteSize: "size, e.g. `20GiB`", SecretStr: "secret text"}.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "" if field.default_factory is not None else "needed"
    value = field.default
    if value is None or value in ((), ""):
        return ""
    if isinstance(value, ByteSize):
        return f"`{value.human_readable()}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
