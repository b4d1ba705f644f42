"""Create, get and cancel predictions.

Source: Replicate's OpenAPI document; ``Prefer: wait`` and the statuses as its clients need them: a create that
has not ended says ``starting``, because the clients take any other word for the end. So one that waits may be told
``processing`` only with its whole output, which they then use, as they do with the API itself.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Literal

from proxy.core.canonical import strings_in
from proxy.core.controls import parse_controls
from proxy.core.errors import InputInvalid, InvalidField, NotFound
from proxy.core.policy import Bypass
from proxy.core.predictions import Prediction, as_begun, prediction_url, render_prediction
from proxy.core.requests import CreateBody, is_slug, parse_cancel_after, parse_create, parse_prefer_wait
from proxy.engine.coalescer import Landed
from proxy.engine.observer import Watch
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.runs import Create
from proxy.routes.exchange import JSON_TYPE, PRIVATE, Exchange, Handler
from proxy.routes.passthrough import CACHE_NAME, Passthrough
from proxy.services import Services
from proxy.upstreams.base import ModelTarget, Upstream
from proxy.upstreams.webhook_addresses import check_webhook_url
from storage.digest import Scope
from storage.records import JsonObject, JsonValue

InPath = Literal["model", "deployment"]
"""What the path of a create may name."""

_HIT_STATUS = f"{CACHE_NAME}; hit".encode()


class Predictions:
    """Handlers of ``/predictions``, and of creates below ``/models/{owner}/{name}`` and ``/deployments/...``."""

    def __init__(self, services: Services, passthrough: Passthrough) -> None:
        self._services = services
        self._passthrough = passthrough

    def create(self, *, in_path: InPath | None = None) -> Handler:
        """The handler that creates; ``in_path`` is what the path names."""

        async def handle(exchange: Exchange) -> None:
            await self._create(exchange, named_in(exchange, in_path), is_deployment=in_path == "deployment")

        return handle

    async def _create(self, exchange: Exchange, named: tuple[str, str] | None, *, is_deployment: bool) -> None:
        began = time.perf_counter()
        services = self._services
        credential = exchange.credential()
        body = await exchange.body(services.settings.limits.max_body_bytes)
        parsed = parse_create(body, named)
        upstream, target = await self._resolve(parsed, named, is_deployment=is_deployment)
        visitor = await services.gatekeeper.identify(upstream, credential)
        exchange.note.upstream = upstream.name
        await services.gatekeeper.check_create(upstream, credential, target)
        controls = parse_controls(exchange.headers, exchange.scope.get("hotplate.profile"))
        is_observed = False
        if services.policies.book.observes:
            asked = Create(upstream, target, parsed.input, credential, visitor.owner, 0.0, controls)
            is_observed = await services.preparation.is_observed(asked)
            # Of an API whose account is held here nobody could read the prediction: there it is a run of its own.
            if is_observed and upstream.has_accounts:
                await self._pass_on(exchange, asked, body)
                return
            del asked
        if self._must_relay(parsed, upstream):
            exchange.note.outcome = "bypass"
            ended = services.budgets.begin(visitor.owner)  # it makes a run as well
            try:
                services.books.relayed(upstream.name, target, visitor.owner)
                await self._passthrough.relay(exchange, upstream, body, detail="extras")
            finally:
                ended()
            return
        del body  # whoever waits holds no copy
        if parsed.webhook is not None:
            check_webhook_url(parsed.webhook.url, services.webhook_access)
            services.webhook_secrets.learn(upstream, credential, visitor.owner)
        wait_s = parse_prefer_wait(exchange.headers.get("prefer"))
        create = self._as_create(exchange, parsed, upstream, target, visitor.owner, wait_s or 0.0)
        watch: Watch | None = None
        if is_observed and not services.policies.is_bypassed:
            with contextlib.closing(services.observer.watch(create)) as watch:
                answer = await services.predictor.create(create)
                if isinstance(answer, Running):
                    watch.follow(answer.flight)
        else:
            answer = await services.predictor.create(create)
        if isinstance(answer, Hit):
            await self._send_hit(exchange, answer, parsed.input, wait_s, began)
        else:
            wants_new = create.controls.directives.wants_new
            del parsed, create  # what of its input others share is in ``answer``
            await self._send_running(exchange, answer, wait_s, began, watch, wants_new=wants_new)

    async def _pass_on(self, exchange: Exchange, create: Create, body: bytes) -> None:
        """Pass a create on as it came: ids, polls and files stay the upstream's own.

        The kill switch does not change what clients of a pure pass-through see; nothing is counted meanwhile.
        """
        exchange.note.outcome = "bypass"
        ended = self._services.budgets.begin(create.scope)
        try:
            self._services.books.relayed(create.upstream.name, create.target, create.scope)
            if self._services.policies.is_bypassed:
                await self._passthrough.relay(exchange, create.upstream, body, detail="off")
                return
            with contextlib.closing(self._services.observer.watch(create)) as watch:
                await self._passthrough.relay(exchange, create.upstream, body, detail=watch.detail, heard=watch.heard)
        finally:
            ended()

    async def answer_hit(
        self,
        exchange: Exchange,
        body: bytes,
        named: tuple[str, str] | None,
        *,
        is_deployment: bool,
        may_send: Callable[[], bool],
    ) -> bool:
        """Answer a create from the store, by a process that may do nothing else; ``False`` when nothing was sent.

        ``may_send`` is asked last. A request that wants more than the stored result is left alone, and so is one
        whose files somebody would have to look at.

        Raises:
            HotplateError: the request is wrong, or nobody knows; nothing was sent.
        """
        began = time.perf_counter()
        parsed = parse_create(body, named)
        if parsed.webhook is not None or parsed.extras or _may_hold_files(parsed.input):
            return False
        upstream, target = await self._resolve(parsed, named, is_deployment=is_deployment)
        gatekeeper, credential = self._services.gatekeeper, exchange.credential()
        if gatekeeper.is_limited(upstream, credential):
            return False
        visitor = await gatekeeper.recognise(upstream, credential)
        wait_s = parse_prefer_wait(exchange.headers.get("prefer"))
        create = self._as_create(exchange, parsed, upstream, target, visitor.owner, wants_s=0.0)
        hit = await self._services.predictor.find_hit(create, may_send)
        if hit is None:
            return False
        exchange.note.upstream = upstream.name
        await self._send_hit(exchange, hit, parsed.input, wait_s, began)
        return True

    async def _resolve(
        self, parsed: CreateBody, named: tuple[str, str] | None, *, is_deployment: bool
    ) -> tuple[Upstream, ModelTarget]:
        if named is not None and is_deployment:
            return self._services.catalog.deployment(*named)
        return await self._services.catalog.resolve(parsed.model, parsed.version)

    def _as_create(
        self,
        exchange: Exchange,
        parsed: CreateBody,
        upstream: Upstream,
        target: ModelTarget,
        scope: Scope,
        wants_s: float,
    ) -> Create:
        return Create(
            upstream=upstream,
            target=target,
            given=parsed.input,
            credential=exchange.credential(),
            scope=scope,
            wants_s=wants_s,
            controls=parse_controls(exchange.headers, exchange.scope.get("hotplate.profile")),
            webhook=parsed.webhook,
            deadline_s=parse_cancel_after(exchange.headers.get("cancel-after")),
        )

    def _must_relay(self, parsed: CreateBody, upstream: Upstream) -> bool:
        """Whether the request asks for something that only the upstream itself can do for it.

        Raises:
            InputInvalid: it asks an upstream that cannot do it.
        """
        settings = self._services.settings.webhooks
        if upstream.kind == "replicate" and not upstream.has_accounts and parsed.extras:
            # Its answer would name a prediction that belongs to no caller of ours.
            raise InputInvalid(
                [InvalidField("not_supported", name, f"{name} is not available here") for name in sorted(parsed.extras)]
            )
        if upstream.has_accounts:
            return bool(parsed.extras) or (parsed.webhook is not None and not settings.enabled)
        if parsed.webhook is not None and not settings.enabled:
            raise InputInvalid([InvalidField("not_supported", "webhook", "webhooks are not available for this model")])
        return False

    async def _send_hit(
        self, exchange: Exchange, hit: Hit, given: JsonObject, wait_s: float | None, began: float
    ) -> None:
        exchange.note.outcome = "hit"
        exchange.note.key = hit.record.key.hex()[:16]
        exchange.note.saved_s = hit.record.predict_s
        if wait_s is None and _comes_in_pieces(hit.record.output):
            begun = self._services.views.begun(hit.id, hit.record, given, hit.created_at)
            body = render_prediction(begun, self._services.base_url)
        else:
            body = hit.template.fill(hit.id, hit.input_json, hit.created_at)
        url = prediction_url(self._services.base_url, hit.id).encode()
        headers = [
            JSON_TYPE,
            PRIVATE,
            (b"location", url),
            (b"age", b"%d" % hit.age_s),
            (b"cache-status", _hit_status(hit)),
            (b"server-timing", b"total;dur=%.2f" % ((time.perf_counter() - began) * 1000)),
        ]
        if hit.template.links:
            headers.append((b"link", hit.template.links))
        await exchange.respond(201, headers, body)

    async def _send_running(
        self,
        exchange: Exchange,
        entry: Running,
        wait_s: float | None,
        began: float,
        watch: Watch | None,
        *,
        wants_new: bool,
    ) -> None:
        services = self._services
        # With too many waiting already this one is told at once, as if its time had run out: it can poll.
        with services.waiting.place(entry.flight) as has_place:
            if wait_s is not None and has_place:
                # From when the request came: part of the time may have gone by before its run was taken.
                await entry.wait(wait_s - (time.perf_counter() - began))
        is_whole = wait_s is not None and entry.flight.is_whole
        landed = entry.flight.landed
        prediction = await services.views.of(entry)
        status = 201
        is_early = wait_s is None and _comes_in_pieces(prediction.output)
        if is_early or (not prediction.is_terminal and not (is_whole and prediction.output is not None)):
            prediction = as_begun(prediction)
            status = 202 if wait_s is not None else 201
        exchange.note.outcome = _outcome_word(entry, landed)
        exchange.note.key = entry.flight.key.hex()[:16] if entry.flight.key is not None else None
        headers = [
            JSON_TYPE,
            PRIVATE,
            (b"location", prediction_url(services.base_url, entry.id).encode()),
            (b"cache-status", _cache_status(entry, landed, watch, wants_new=wants_new).encode()),
            (b"server-timing", _server_timing(landed, began).encode()),
        ]
        if landed is not None and landed.record is not None and landed.record.files:
            headers.append((b"link", services.views.links(landed.record).encode()))
        await exchange.respond(status, headers, render_prediction(prediction, services.base_url))

    async def get(self, exchange: Exchange) -> None:
        """``GET /predictions/{id}``: ours, or the upstream's own."""
        await self._existing(exchange, self._services.views.find)

    async def cancel(self, exchange: Exchange) -> None:
        """``POST /predictions/{id}/cancel``."""
        await self._existing(exchange, self._services.lives.cancel)

    async def _existing(
        self, exchange: Exchange, action: Callable[[str, Scope, Collection[Scope]], Awaitable[Prediction | None]]
    ) -> None:
        services = self._services
        credential = exchange.credential()
        visits = await services.visits(credential)
        for upstream, visitor, owner in [(*visit, owner) for visit in visits for owner in visit[1].owners]:
            if not services.views.is_own(exchange.params["id"], owner):
                continue
            # A prediction is shown to a credential that its upstream accepts now, as a hit is.
            await services.gatekeeper.require(upstream, credential)
            prediction = await action(exchange.params["id"], owner, visitor.entitled)
            if prediction is not None:
                exchange.note.outcome, exchange.note.upstream = "own", upstream.name
                await exchange.respond(200, [JSON_TYPE, PRIVATE], render_prediction(prediction, services.base_url))
                return
        await self._passthrough.handle(exchange, services.observer.listener(exchange.params["id"]))


def named_in(exchange: Exchange, in_path: InPath | None) -> tuple[str, str] | None:
    """Owner and name in the path of a create, where they stand there.

    Raises:
        NotFound: they are no names.
    """
    if in_path is None:
        return None
    named = (exchange.params["owner"], exchange.params["name"])
    if not all(is_slug(part) for part in named):
        raise NotFound("The requested resource could not be found.")
    return named


def _may_hold_files(given: JsonObject) -> bool:
    """Whether any string of an input may stand for a file, or hold a URL."""
    return any("://" in text or text.startswith("data:") for text in strings_in(given))


def _comes_in_pieces(output: JsonValue) -> bool:
    """Whether a client that does not wait may want the pieces of an output one by one.

    Clients that iterate over an output yield what has come since the create was answered; where the create says all,
    they yield nothing. The API says nothing of the output in answer to a create without ``Prefer: wait``.
    """
    return isinstance(output, list)


def _hit_status(hit: Hit) -> bytes:
    """``Cache-Status`` of a hit. Source: RFC 9211 sections 2.1, 2.4 and 2.8."""
    if hit.grade == "fresh" and hit.member is None and hit.ttl_s == math.inf and not hit.is_stretched:
        return _HIT_STATUS
    status = _HIT_STATUS if hit.ttl_s == math.inf else _HIT_STATUS + b"; ttl=%d" % math.floor(hit.ttl_s)
    details = [_place(hit.member)] if hit.member is not None else []
    if hit.grade != "fresh":
        details.append("revalidating" if hit.grade == "revalidate" else "stale-if-error")
    if hit.is_stretched:
        details.append("auth-stretched")
    if details:
        is_token = len(details) == 1 and hit.member is None
        status += f"; detail={details[0]}".encode() if is_token else f'; detail="{", ".join(details)}"'.encode()
    return status


def _place(member: tuple[int, int]) -> str:
    number, size = member
    return f"pool {number + 1}/{size}"


def _outcome_word(entry: Running, landed: Landed | None) -> str:
    if entry.flight.key is None:
        return "bypass"
    if entry.is_follower:
        return "coalesced"
    if landed is None:
        return "miss"
    return "cold_miss" if landed.outcome.boot_s > 0 else "warm_miss"


def _cache_status(entry: Running, landed: Landed | None, watch: Watch | None = None, *, wants_new: bool = False) -> str:
    """``Cache-Status`` of an answer that is no hit. Where nothing was looked up, either the request wanted that
    (``wants_new``) or the policy. Source: RFC 9211 section 2."""
    parts = [CACHE_NAME]
    if watch is not None:
        return f'{CACHE_NAME}; fwd=bypass; detail="{watch.detail()}"'
    if isinstance(entry.plan, Bypass):
        parts += ["fwd=request" if entry.plan.reason == "request" else "fwd=bypass", f"detail={entry.plan.reason}"]
        return "; ".join(parts)
    parts.append("fwd=miss" if entry.plan.may_look_up else "fwd=request" if wants_new else "fwd=bypass")
    if landed is not None and landed.is_stored:
        parts.append("stored")
    if entry.is_follower:
        parts.append("collapsed")
    words = [] if landed is None else ["cold" if landed.outcome.boot_s > 0 else "warm"]
    if entry.member is not None:
        parts.append('detail="' + " ".join([*words, _place(entry.member)]) + '"')
    elif words:
        parts.append(f"detail={words[0]}")
    return "; ".join(parts)


def _server_timing(landed: Landed | None, began: float) -> str:
    """Milliseconds by phase; ``download`` is a simulated one and never part of ``boot``."""
    parts: list[tuple[str, float]] = []
    if landed is not None:
        outcome = landed.outcome
        if outcome.download_s:
            parts.append(("download", outcome.download_s))
        parts += [("boot", outcome.boot_s), ("run", outcome.completed_at - outcome.started_at)]
    parts.append(("total", time.perf_counter() - began))
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts)
