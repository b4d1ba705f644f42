from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.errors import InputInvalid
from proxy.core.schemas import parse_schema
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from tests.fakes.asking import OPENAPI, document
from tests.fakes.engine import Engine

pytestmark = pytest.mark.anyio


# -- inputs by schema ----------------------------------------------------------------------------------


async def test_default_left_out_or_filled_in_is_one_request() -> None:
    engine = Engine()
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    await engine.run({"seed": 7})
    hit = await engine.create({"steps": 4, "seed": 7})
    assert isinstance(hit, Hit)
    assert document(hit)["input"] == {"steps": 4, "seed": 7}
    assert isinstance(await engine.create({"seed": 7, "steps": 5}), Running)


async def test_account_upstream_is_sent_what_was_given_and_judges_it_itself() -> None:
    engine = Engine()
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    for given in ({"seed": 7}, {"seed": "seven"}, {"seed": 7, "steps": 500}, {"unknown": True}):
        await engine.run(given)
        assert engine.upstream.jobs[-1].input == given
        assert isinstance(await engine.create(given), Hit)


async def test_own_model_is_sent_the_normalised_input_and_never_nonsense() -> None:
    engine = Engine()
    engine.upstream.has_accounts = False
    engine.upstream.kind = "cog"
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    await engine.run({"seed": 7, "unknown": "dropped"})
    assert engine.upstream.jobs[-1].input == {"seed": 7, "steps": 4}
    assert isinstance(await engine.create({"seed": 7}), Hit)
    with pytest.raises(InputInvalid):
        await engine.create({"seed": 7, "steps": 500})
    assert len(engine.upstream.jobs) == 1
