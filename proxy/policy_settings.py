"""``[[policy]]`` tables: the operator's rules for models, as they are written down."""

from __future__ import annotations

import json
import re

from pydantic import ConfigDict, Field, field_validator

from proxy.core.entitlement import parse_rule
from proxy.core.policy import Control, KeepsText, Mode, Policy
from proxy.settings_types import Section
from storage.records import JsonObject


class PolicySettings(Section):
    """How the models that match are cached. The first policy that matches holds."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="Name of a profile: the policy then holds only for requests to `https://host/@name/v1/...`, and "
        "there before those without a name.",
    )
    models: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="Globs over `owner/name`; over `deployments/owner/name` for deployments. `*` is every model.",
    )
    mode: Mode = Field(
        default="on",
        description="`on` = look up, share runs, store; `off` = a run for each request, nothing kept; `read_only` = "
        "store nothing new; `write_only` = a run for each request, which is stored; `refresh` = likewise, but equal "
        "requests at one time share it; `observe` = pass everything on and only count what would have been a hit.",
    )
    ttl_s: float | None = Field(
        default=None,
        ge=0,
        description="Seconds for which a result is served. Default: for ever for a pinned version, 7 days for a model "
        "that does not tell its version.",
    )
    stale_while_revalidate_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds after that in which it is still served while a new run, which costs money, is made.",
    )
    stale_if_error_s: float = Field(
        default=0.0, ge=0, description="Seconds after that in which it is served if no run can be made."
    )
    ignore: tuple[str, ...] = Field(default=(), description="Input fields that do not matter: left out of the key.")
    only: tuple[str, ...] | None = Field(default=None, description="The only input fields that enter the key.")
    seedless: str = Field(
        default="reuse",
        description="Requests without a seed: `reuse` = one answer for all; `bypass` = each is new; `pool:N` = N "
        "different ones are collected before any repeats, then one is chosen at random (2 to 100).",
    )
    seed_fields: tuple[str, ...] = Field(default=("seed",), description="Input fields that hold a seed.")
    random_seeds: tuple[int, ...] = Field(
        default=(-1,), description='Seeds that mean "choose one", as no seed and `null` do. 0 is a seed like any other.'
    )
    cache_text: KeepsText = Field(
        default="deterministic",
        description="Whether results without files (text) are kept: `deterministic` = where the input has a seed or a "
        "temperature of 0; `on` = always; `off` = never.",
    )
    price_per_second: float = Field(
        default=0.0, ge=0, description="Price of a second of a run, for the ledger. Only in a policy without a name."
    )
    price_per_output: float = Field(
        default=0.0, ge=0, description="Price of an output file, for the ledger. Only in a policy without a name."
    )
    scope: str = Field(
        default="account",
        description="Who shares results: `account` = all tokens of an account, `token` = each for itself, "
        "`group:NAME` = the members of a group, `shared` = everybody whom the upstream accepts.",
    )
    forbid: tuple[Control, ...] = Field(
        default=(), description="What requests may not ask for, by `Cache-Control` or the `Hotplate-*` headers."
    )

    def to_json(self) -> JsonObject:
        """The table as JSON, from which ``model_validate`` makes it again."""
        table: JsonObject = json.loads(self.model_dump_json())  # endless times have no number in JSON
        return table

    @field_validator("seedless")
    @classmethod
    def _is_seedless(cls, value: str) -> str:
        if not re.fullmatch(r"reuse|bypass|pool:([2-9]|[1-9][0-9]|100)", value):
            raise ValueError(f"{value!r} must be reuse, bypass or pool:N, N from 2 to 100")
        return value

    @field_validator("scope")
    @classmethod
    def _is_scope(cls, value: str) -> str:
        parse_rule(value)
        return value

    def policy(self) -> Policy:
        """The policy itself."""
        _, _, size = self.seedless.partition(":")
        return Policy(
            name=self.name,
            models=self.models,
            mode=self.mode,
            ttl_s=self.ttl_s,
            stale_while_revalidate_s=self.stale_while_revalidate_s,
            stale_if_error_s=self.stale_if_error_s,
            ignore=frozenset(self.ignore),
            only=frozenset(self.only) if self.only is not None else None,
            pool=int(size) if size else int(self.seedless == "reuse"),
            seed_fields=self.seed_fields,
            random_seeds=self.random_seeds,
            cache_text=self.cache_text,
            price_per_second=self.price_per_second,
            price_per_output=self.price_per_output,
            scope=self.scope,
            forbid=frozenset(self.forbid),
        )
