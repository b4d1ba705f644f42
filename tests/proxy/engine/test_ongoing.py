from __future__ import annotations

import pytest

from proxy.core.ids import PredictionId
from proxy.core.policy import Bypass, Cached
from proxy.core.sealing import Sealer
from proxy.core.secrets import Secrets
from proxy.core.webhooks import WebhookRequest
from proxy.engine import ongoing as module
from proxy.engine.ongoing import Ongoing, OngoingPrediction, OngoingRun
from proxy.engine.rows import RowWriter
from proxy.upstreams.base import Credential, ModelDescription, ModelTarget
from storage.digest import PredictionKey, RecordId, Scope
from storage.errors import StorageUnavailable
from tests.fakes.stores import MemoryKeyValue

pytestmark = pytest.mark.anyio

SCOPE = Scope(b"s" * 32)
RESULTS = Scope(b"r" * 32)
RUN = OngoingRun(
    record_id=RecordId(7),
    scope=SCOPE,
    results_scope=RESULTS,
    upstream="replicate",
    upstream_id="up1",
    job_id="j" * 26,
    target=ModelTarget("acme", "pixel", None, is_deployment=True),
    described=ModelDescription("acme/pixel", "hidden", is_pinned=False, schema=None, deployment="acme/pixel"),
    plan=Cached(may_look_up=False),
    key=PredictionKey(b"k" * 32),
    key_input={"prompt": "a red fox", "seed": 2**63},
    sent=None,
    credential=Credential("r8_secret"),
    started_at=12.5,
)
ONE = OngoingPrediction(
    id=PredictionId("p" * 26),
    record_id=RecordId(7),
    scope=SCOPE,
    results_scope=RESULTS,
    upstream="replicate",
    created_at=12.25,
    is_follower=True,
    deadline_at=42.0,
    webhook=WebhookRequest("https://example.com/hook?secret=words", frozenset({"start", "completed"})),
)


def ongoing(rows: MemoryKeyValue, secret: bytes = b"s" * 32) -> tuple[Ongoing, RowWriter]:
    writer = RowWriter(rows)
    return Ongoing(writer, Sealer(Secrets.derive(secret))), writer


async def test_what_was_written_down_is_read_by_the_next_process() -> None:
    rows = MemoryKeyValue()
    first, _ = ongoing(rows)
    first.run_began(RUN)
    assert await first.joined(ONE)
    assert await ongoing(rows)[0].load() == ([RUN], [ONE])


async def test_run_without_a_key_or_an_account_is_read_as_it_was() -> None:
    rows = MemoryKeyValue()
    first, writer = ongoing(rows)
    bare = OngoingRun(
        **{
            **{name: getattr(RUN, name) for name in RUN.__slots__},
            "plan": Bypass("request"),
            "key": None,
            "credential": None,
            "sent": {"prompt": "x"},
            "repeats": 1,
        }
    )
    first.run_began(bare)
    await writer.drain()
    assert await ongoing(rows)[0].load() == ([bare], [])


async def test_what_has_ended_is_forgotten() -> None:
    rows = MemoryKeyValue()
    first, writer = ongoing(rows)
    first.run_began(RUN)
    first.joined(ONE)
    first.run_ended(RUN.record_id)
    first.settled(ONE.id)
    await writer.drain()
    assert rows._values == {}


async def test_neither_token_nor_prompt_nor_webhook_lies_there_in_clear() -> None:
    rows = MemoryKeyValue()
    first, writer = ongoing(rows)
    first.run_began(RUN)
    first.joined(ONE)
    await writer.drain()
    written = b"".join(name.encode() + value for name, (value, _) in rows._values.items())
    for secret in (b"r8_secret", b"red fox", b"example.com", b"acme"):
        assert secret not in written


async def test_rows_of_another_secret_or_under_another_name_are_passed_over() -> None:
    rows = MemoryKeyValue()
    first, writer = ongoing(rows)
    first.run_began(RUN)
    await writer.drain()
    (value,) = [value for value, _ in rows._values.values()]
    await rows.put("going:0000000008", value)
    await rows.put("going:0000000009", b"junk")
    assert await ongoing(rows)[0].load() == ([RUN], [])
    assert await ongoing(rows, b"x" * 32)[0].load() == ([], [])


async def test_large_input_is_left_out_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW_BYTES", 1000)
    rows = MemoryKeyValue()
    first, writer = ongoing(rows)
    large = OngoingRun(
        **{**{name: getattr(RUN, name) for name in RUN.__slots__}, "sent": {"image": "x" * 2000}, "key_input": {"a": 1}}
    )
    first.run_began(large)
    await writer.drain()
    ((found,), _) = await ongoing(rows)[0].load()
    assert (found.sent, found.key_input, found.upstream_id) == (None, {}, "up1")


async def test_store_that_is_away_is_told_to_whoever_waits_and_fails_nothing() -> None:
    rows = MemoryKeyValue()
    rows.failure = StorageUnavailable("away")
    first, writer = ongoing(rows)
    first.run_began(RUN)
    assert not await first.joined(ONE)
    await writer.drain()
    assert await first.load() == ([], [])
