"""Predictions as they are shown; most of it is told in ``test_predictor`` and ``test_partials``."""

from __future__ import annotations

import pytest

from proxy.core.predictions import as_begun, render_prediction
from proxy.engine.predictor import Hit
from proxy.upstreams.base import ModelTarget
from tests.fakes.engine import BASE, Engine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("is_deployment", [False, True])
async def test_hit_that_is_not_waited_for_is_shown_as_one_that_was_found_and_has_only_begun(
    is_deployment: bool,
) -> None:
    engine = Engine()
    target, given = ModelTarget("acme", "pixel", is_deployment=is_deployment), {"prompt": "a red fox", "seed": 1.0}
    await engine.run(given, target=target)
    hit = await engine.create(given, target=target)
    assert isinstance(hit, Hit)
    found = await engine.views.find(hit.id, hit.record.scope)
    assert found is not None
    begun = engine.views.begun(hit.id, hit.record, given, hit.created_at)
    assert render_prediction(begun, BASE) == render_prediction(as_begun(found), BASE)
