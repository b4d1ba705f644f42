"""Which upstream serves what, as tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from proxy.core.errors import HotplateError, NotFound, UpstreamTimeout, UpstreamUnavailable
from proxy.upstreams.base import Credential, ModelDescription, ModelTarget, UpstreamKind
from proxy.upstreams.catalog import Catalog, Entry
from tests.fakes.clock import ManualClock
from tests.fakes.upstreams import ScriptedUpstream

pytestmark = pytest.mark.anyio

OURS = "a" * 64
THEIRS = "b" * 64
UNKNOWN = "c" * 64


@dataclass
class Described(ScriptedUpstream):
    """An upstream with a few models, by ``owner/name``; ``failure`` is raised instead of any description.

    Attributes:
        asked: the targets that it was asked about.
        needs_name: it knows a version only together with its model.
    """

    versions: dict[str, str] = field(default_factory=dict)
    failure: HotplateError | None = None
    needs_name: bool = False
    asked: list[ModelTarget] = field(default_factory=list)

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        self.asked.append(target)
        assert credential is None
        if self.failure is not None:
            raise self.failure
        for model, version in self.versions.items():
            is_meant = target.model == model if self.needs_name or target.model else target.version == version
            if is_meant and target.version in (None, version):
                return ModelDescription(model, version, is_pinned=True, schema=None)
        raise NotFound("The requested resource could not be found.")


def without_accounts(name: str, kind: UpstreamKind = "cog", **more: object) -> Described:
    return Described(ManualClock(), name=name, kind=kind, has_accounts=False, **more)  # type: ignore[arg-type]


def replicate(name: str = "replicate") -> Described:
    return Described(ManualClock(), name=name, failure=UpstreamUnavailable("it must not be asked here"))


def catalog(*entries: tuple[ScriptedUpstream, tuple[str, ...]]) -> Catalog:
    return Catalog([Entry(upstream, globs) for upstream, globs in entries])


# -- by name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("globs", "model", "served_by"),
    [
        ([("acme/pixel",), ("*",)], "acme/pixel", 0),
        ([("*",), ("acme/pixel",)], "acme/pixel", 0),
        ([("acme/pixel",), ("*",)], "acme/other", 1),
        ([("acme/*",), ("acme/pixel",), ("*",)], "acme/pixel", 0),
        ([("acme/*",), ("*",)], "acme-two/pixel", 1),
        ([("*/pixel",), ("acme/*",)], "acme/pixel", 0),
        ([("acme/pix?l",), ("acme/*",)], "acme/pixel", 0),
        ([("acme/[xyz]*",), ("acme/*",)], "acme/pixel", 1),
        ([("painters/brush", "acme/pixel"), ("*",)], "acme/pixel", 0),
        ([("ACME/pixel",), ("*",)], "acme/pixel", 1),
        ([("pixel",), ("acme",), ("*",)], "acme/pixel", 2),
        ([("acme/pixel",)], "acme/other", None),
        ([("acme/*",), ("painters/*",)], "nobody/knows", None),
    ],
)
async def test_first_upstream_with_a_glob_that_matches_serves(
    globs: list[tuple[str, ...]], model: str, served_by: int | None
) -> None:
    upstreams = [without_accounts(f"u{number}") for number in range(len(globs))]
    made = catalog(*zip(upstreams, globs, strict=True))
    owner, _, name = model.partition("/")
    if served_by is None:
        with pytest.raises(NotFound):
            made.serving(model)
        with pytest.raises(NotFound):
            await made.resolve((owner, name), None)
        return
    assert made.serving(model) is upstreams[served_by]
    assert await made.resolve((owner, name), OURS) == (upstreams[served_by], ModelTarget(owner, name, OURS))
    assert [upstream.asked for upstream in upstreams] == [[]] * len(upstreams), "a name needs no question"


def test_upstreams_stand_in_the_order_of_the_settings() -> None:
    upstreams = [without_accounts("one"), replicate(), without_accounts("two")]
    assert catalog(*((upstream, ("*",)) for upstream in upstreams)).upstreams == tuple(upstreams)


# -- by version alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cog", "local"])
@pytest.mark.parametrize("needs_name", [False, True])
async def test_version_alone_finds_the_model_without_accounts(kind: UpstreamKind, needs_name: bool) -> None:
    ours = without_accounts("ours", kind, versions={"acme/pixel": OURS}, needs_name=needs_name)
    made = catalog((replicate(), ("*",)), (ours, ("acme/pixel",)))
    assert await made.resolve(None, OURS) == (ours, ModelTarget("acme", "pixel", OURS))


@pytest.mark.parametrize("globs", [("acme/*",), ("*",), ("*/pixel",), ("acme/pix?l",), ("acme/[op]ixel",)])
async def test_version_alone_is_found_behind_wildcards(globs: tuple[str, ...]) -> None:
    ours = without_accounts("ours", versions={"acme/pixel": OURS})
    made = catalog((ours, globs), (replicate(), ("*",)))
    upstream, target = await made.resolve(None, OURS)
    assert upstream is ours
    assert target == ModelTarget("acme", "pixel", OURS)
    assert not [target for target in ours.asked if set(target.model) & set("*?[")], "a glob is no name of a model"


async def test_version_alone_is_found_among_several_upstreams_and_names() -> None:
    first = without_accounts("first", versions={"acme/one": OURS, "acme/two": UNKNOWN}, needs_name=True)
    second = without_accounts("second", versions={"painters/brush": THEIRS}, needs_name=True)
    made = catalog((first, ("acme/one", "acme/two")), (second, ("painters/*", "painters/brush")))
    for version, upstream, owner, name in [
        (OURS, first, "acme", "one"),
        (UNKNOWN, first, "acme", "two"),
        (THEIRS, second, "painters", "brush"),
    ]:
        assert await made.resolve(None, version) == (upstream, ModelTarget(owner, name, version))


async def test_version_that_nobody_here_has_goes_to_the_first_replicate_api() -> None:
    ours = without_accounts("ours", versions={"acme/pixel": OURS})
    first, second = replicate("first"), replicate("second")
    made = catalog((ours, ("acme/pixel",)), (first, ("x/*",)), (second, ("*",)))
    assert await made.resolve(None, THEIRS) == (first, ModelTarget("", "", THEIRS))
    assert first.asked == second.asked == []


async def test_upstream_that_answers_with_another_version_is_not_taken() -> None:
    other = without_accounts("other")
    other.describe = ScriptedUpstream(ManualClock()).describe  # type: ignore[method-assign]
    api = replicate()
    upstream, _ = await catalog((other, ("acme/pixel",)), (api, ("*",))).resolve(None, THEIRS)
    assert upstream is api


DOWN = [UpstreamUnavailable("no server answers"), UpstreamTimeout("it did not boot in time")]


@pytest.mark.parametrize("failure", DOWN, ids=lambda error: error.code)
@pytest.mark.parametrize("globs", [("acme/pixel",), ("acme/*",), ("*",)])
async def test_upstream_that_is_away_does_not_stop_a_version_meant_for_the_api(
    failure: HotplateError, globs: tuple[str, ...]
) -> None:
    away, api = without_accounts("away", failure=failure), replicate()
    made = catalog((away, globs), (api, ("*",)))
    assert await made.resolve(None, THEIRS) == (api, ModelTarget("", "", THEIRS))


@pytest.mark.parametrize("failure", DOWN, ids=lambda error: error.code)
async def test_upstream_that_is_away_does_not_stop_a_version_of_the_next(failure: HotplateError) -> None:
    away = without_accounts("away", failure=failure)
    ours = without_accounts("ours", versions={"acme/pixel": OURS})
    made = catalog((away, ("acme/*",)), (ours, ("acme/pixel",)))
    assert await made.resolve(None, OURS) == (ours, ModelTarget("acme", "pixel", OURS))


@pytest.mark.parametrize("failure", DOWN, ids=lambda error: error.code)
async def test_without_an_api_it_is_said_that_an_upstream_could_not_be_asked(failure: HotplateError) -> None:
    away = without_accounts("away", failure=failure)
    ours = without_accounts("ours", versions={"acme/pixel": OURS})
    with pytest.raises(type(failure)) as raised:
        await catalog((away, ("acme/*",)), (ours, ("acme/pixel",))).resolve(None, UNKNOWN)
    assert raised.value is failure


async def test_without_an_api_a_version_that_nobody_has_is_not_found() -> None:
    ours = without_accounts("ours", versions={"acme/pixel": OURS})
    with pytest.raises(NotFound):
        await catalog((ours, ("acme/pixel",))).resolve(None, UNKNOWN)


# -- deployments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("globs", "served_by"),
    [
        ([("*",), ("acme/*",)], "api"),
        ([("deployments/acme/live",), ("*",)], 0),
        ([("*",), ("x/y", "deployments/acme/*")], 1),
        ([("deployments/acme/other",), ("deployments/*",)], 1),
        ([("*/*/*",), ("acme/live",)], "api"),
    ],
)
async def test_deployment_is_the_apis_unless_a_glob_names_it(
    globs: list[tuple[str, ...]], served_by: int | str
) -> None:
    ours = [without_accounts(f"u{number}") for number in range(len(globs))]
    first, second = replicate("first"), replicate("second")
    made = catalog(*zip(ours, globs, strict=True), (first, ("x/*",)), (second, ("*",)))
    upstream, target = made.deployment("acme", "live")
    assert upstream is (first if isinstance(served_by, str) else ours[served_by])
    assert target == ModelTarget("acme", "live", is_deployment=True)


def test_deployment_that_no_glob_names_is_not_found_without_an_api() -> None:
    with pytest.raises(NotFound):
        catalog((without_accounts("ours"), ("*",))).deployment("acme", "live")


def test_what_globs_name_outright_is_known_by_name() -> None:
    ours = without_accounts("ours")
    globs = ("acme/pixel", "acme/*", "acme/[x]", "deployments/acme/live", "deployments/acme/*", "pixel", "acme/pixel")
    shadowed = without_accounts("shadowed")
    made = catalog((ours, globs), (shadowed, ("acme/pixel", "painters/brush")), (replicate(), ("x/y",)))
    assert made.named() == [(ours, ModelTarget("acme", "pixel")), (shadowed, ModelTarget("painters", "brush"))]
    assert made.named(deployments=True) == [(ours, ModelTarget("acme", "live", is_deployment=True))]


async def test_glob_over_deployments_is_not_taken_for_a_models_name() -> None:
    ours = without_accounts("ours")
    made = catalog((ours, ("deployments/acme/live",)), (replicate(), ("*",)))
    await made.resolve(None, OURS)
    assert ours.asked == [ModelTarget("", "", OURS)]


# -- what is passed on ---------------------------------------------------------------------------------


def test_first_replicate_api_takes_what_is_not_handled() -> None:
    api = replicate("first")
    made = catalog((without_accounts("ours", "local"), ("*",)), (api, ("x/*",)), (replicate("second"), ("*",)))
    assert made.relay() is api


def test_without_an_api_nothing_is_passed_on() -> None:
    with pytest.raises(NotFound):
        catalog((without_accounts("ours", "local"), ("*",))).relay()
