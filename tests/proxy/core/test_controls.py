from __future__ import annotations

import pytest

from proxy.core.cache_control import Directives
from proxy.core.controls import NO_CONTROLS, Controls, parse_controls
from proxy.core.errors import BadRequest


def test_request_that_says_nothing_has_no_controls() -> None:
    assert parse_controls({"accept": "*/*"}) is NO_CONTROLS


def test_every_header_is_read() -> None:
    headers = {
        "cache-control": "max-age=5",
        "hotplate-namespace": "team/a",
        "hotplate-pool": "5",
        "hotplate-key": "user 7, variant B",
        "hotplate-tags": "a, b:1 ,a,",
    }
    assert parse_controls(headers, "fast") == Controls(
        Directives(max_age_s=5), "fast", "team/a", 5, "user 7, variant B", ("a", "b:1")
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", ""),
        ("namespace", "a b"),
        ("namespace", "a" * 65),
        ("namespace", "a, b"),
        ("pool", "0"),
        ("pool", "101"),
        ("pool", "-1"),
        ("pool", "5.0"),
        ("pool", "٣"),
        ("pool", "5, 6"),
        ("key", ""),
        ("key", "x" * 257),
        ("tags", ""),
        ("tags", ","),
        ("tags", "a b"),
        ("tags", ",".join(f"t{number}" for number in range(17))),
    ],
)
def test_header_that_cannot_be_read_is_an_error(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"Hotplate-{name.title()}"):
        parse_controls({f"hotplate-{name}": value})
