from __future__ import annotations

import pytest

from proxy.core.errors import InputInvalid
from proxy.core.outputs import OutputAccess
from proxy.upstreams.webhook_addresses import check_webhook_url

NOBODY = OutputAccess()
NAMED = OutputAccess(origins=(("http", "10.0.0.5", 9000), ("https", "hooks.internal", 8443)))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/in?token=abc",
        "HTTPS://Hooks.Example.com",
        "https://hooks.example.com:443/",
        "https://8.8.8.8/in",
        "https://hooks.internal/",
    ],
)
def test_public_https_address_needs_no_naming(url: str) -> None:
    check_webhook_url(url, NOBODY)


def test_origin_that_the_operator_named_may_be_plain_private_and_on_any_port() -> None:
    for url in ("http://10.0.0.5:9000/hook", "https://hooks.internal:8443/"):
        check_webhook_url(url, NAMED)
        with pytest.raises(InputInvalid):
            check_webhook_url(url, NOBODY)
    for url in ("http://10.0.0.5:9001/hook", "https://10.0.0.5:9000/", "http://hooks.internal:8443/"):
        with pytest.raises(InputInvalid):
            check_webhook_url(url, NAMED)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://hooks.example.com/", "HTTPS"),
        ("https://hooks.example.com:22/", "port"),
        ("https://127.0.0.1/", "public"),
        ("https://[::1]/", "public"),
        ("https://169.254.169.254/latest/meta-data", "public"),
        ("https://user:secret@hooks.example.com/", "user information"),
        ("https://127.1/", "valid"),
        ("https://2130706433/", "valid"),
        ("https:///nowhere", "valid"),
        ("https://hooks.example.com\\@127.0.0.1/", "valid"),
        ("https://hooks.example.com/a b", "valid"),
        ("ftp://hooks.example.com/", "valid"),
        ("", "valid"),
    ],
)
def test_address_that_would_never_be_called_is_refused_about_the_webhook(url: str, sentence: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        check_webhook_url(url, NOBODY)
    (field,) = refused.value.fields
    assert field.field == "webhook"
    assert sentence in field.description
    assert "secret" not in refused.value.detail
