"""Errors that a client sees, and the errors inside that become them.

::

    HotplateError(status, code)
    ├── BadRequest                400  body or header that cannot be read as what it claims to be
    │   └── InvalidJson           400  broken, doubtful or too deep JSON
    ├── Unauthenticated           401  no credential, or one that is not accepted
    ├── PaymentRequired           402  the caller may spend no more today
    ├── Forbidden                 403  a host, origin or caller that may not ask this here
    ├── NotFound                  404  no such prediction, model, version, file or path
    ├── MethodNotAllowed          405
    ├── BodyTooLarge              413
    │   └── FileTooLarge          413  an upload beyond the API's limit, in its own words
    ├── UnsupportedMedia          415  an encoded or non-JSON body
    ├── InputInvalid              422  the model's schema refuses the input
    ├── TooManyRuns               429  a caller's own bound that the operator has set; ``retry_after_s``
    ├── RateLimited               429  more requests than this caller may make; ``retry_after_s``
    ├── Overloaded                503  a bounded queue is full; ``retry_after_s``
    ├── UpstreamUnavailable       502  the model service cannot be reached or answers nonsense
    ├── UpstreamTimeout           504  it did not answer in time
    ├── NotCached                 504  the request wants a stored result or none, and there is none
    └── UpstreamRefused           any  it answered a create with an error; relayed verbatim

Every error carries what the API's problem object needs: ``status``, ``title``, ``detail``. ``code`` is a
short fixed word for logs and metrics.

Source of the shape: Replicate's HTTP API, errors are ``{"title", "detail", "status", ...}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.records import JsonObject


class HotplateError(Exception):
    """Base of every error that has an answer; see the tree in the module's docstring."""

    status = 500
    code = "internal"
    title = "Internal error"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def body(self) -> JsonObject:
        """The problem object that a client gets."""
        return {"title": self.title, "detail": self.detail, "status": self.status}


class BadRequest(HotplateError):
    status, code, title = 400, "bad_request", "Bad request"


class InvalidJson(BadRequest):
    code, title = "invalid_json", "Invalid JSON"


class Unauthenticated(HotplateError):
    status, code, title = 401, "unauthenticated", "Unauthenticated"


class PaymentRequired(HotplateError):
    status, code, title = 402, "payment_required", "Insufficient credit"


class Forbidden(HotplateError):
    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(HotplateError):
    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(HotplateError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


class BodyTooLarge(HotplateError):
    status, code, title = 413, "body_too_large", "Request body too large"


class FileTooLarge(BodyTooLarge):
    code, title = "file_too_large", "File too large"

    def __init__(self, detail: str = "Files must be less than 100MB in size") -> None:
        super().__init__(detail)


class UnsupportedMedia(HotplateError):
    status, code, title = 415, "unsupported_media", "Unsupported media type"


@dataclass(frozen=True, slots=True)
class InvalidField:
    """One complaint about an input.

    Attributes:
        type: short word for the kind, e.g. ``"required"``, ``"number_lte"``, ``"invalid_type"``, ``"enum"``.
        field: dotted place, e.g. ``"input.width"`` (``"input"`` for a missing field).
        description: a sentence for a person, e.g. ``"Must be less than or equal to 4"``.
    """

    type: str
    field: str
    description: str


class InputInvalid(HotplateError):
    """The input does not satisfy the model's schema; says every complaint at once."""

    status, code, title = 422, "input_invalid", "Input validation failed"

    def __init__(self, fields: Sequence[InvalidField]) -> None:
        lines = (f"- {field.field}: {field.description}\n" for field in fields)
        super().__init__("".join(lines))
        self.fields = tuple(fields)

    def body(self) -> JsonObject:
        complaints = [{"type": f.type, "field": f.field, "description": f.description} for f in self.fields]
        return {**HotplateError.body(self), "invalid_fields": complaints}


class TooManyRuns(HotplateError):
    status, code, title = 429, "too_many_runs", "Too many requests"


class RateLimited(HotplateError):
    status, code, title = 429, "rate_limited", "Too many requests"


class Overloaded(HotplateError):
    status, code, title = 503, "overloaded", "Service overloaded"


class UpstreamUnavailable(HotplateError):
    status, code, title = 502, "upstream_unavailable", "Model service unavailable"


class UpstreamTimeout(HotplateError):
    status, code, title = 504, "upstream_timeout", "Model service timed out"


class NotCached(HotplateError):
    """Source: RFC 9111 section 5.2.1.7."""

    status, code, title = 504, "not_cached", "Not in the cache"


class UpstreamRefused(HotplateError):
    """The upstream answered with an error of its own; status, body and some headers go on verbatim."""

    code, title = "upstream_refused", "Refused by the model service"

    def __init__(self, status: int, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        super().__init__(f"the model service answered {status}")
        self.status = status
        self.headers = tuple(headers)
        self.content = content
