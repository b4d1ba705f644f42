"""What all tables of the settings are made of: closed, frozen sections; addresses that are nothing but addresses."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

BASE_URL = re.compile(r"https?://([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/@-]*)?")

HOST_PATTERN = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Section(BaseModel):
    """A table of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _check_url(text: str) -> str:
    if not BASE_URL.fullmatch(text.rstrip("/")):
        raise ValueError(f"{text!r} must be http:// or https://, a host, perhaps a port and a path, and nothing else")
    return text


def _check_origin(text: str) -> str:
    if "/" in _check_url(text).partition("://")[2]:
        raise ValueError(f"{text!r} must be a scheme, a host and perhaps a port, without a path")
    return text


HttpUrl = Annotated[str, AfterValidator(_check_url)]
HttpOrigin = Annotated[str, AfterValidator(_check_origin)]
