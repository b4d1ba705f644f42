"""Posts of an upstream: only what was signed with the secret, lately, is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.fake_model.courier import sign as sign_as_the_api
from proxy.core.hooks import MAX_SIGNATURES, TOLERANCE_S, hook_token, verify_post
from proxy.core.secrets import Secrets
from proxy.core.webhooks import sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
NOW = 1_780_000_000.0
BODY = b'{"id": "x", "status": "succeeded"}'


def signed(body: bytes = BODY, secret: str = SECRET, at: float = NOW) -> dict[str, str]:
    return sign("msg_1", at, body, [secret])


def test_post_that_was_signed_with_the_secret_tells_its_id() -> None:
    assert verify_post(signed(), BODY, SECRET, NOW) == "msg_1"


def test_standard_webhooks_example_is_accepted() -> None:
    """Source: the vector of the Standard Webhooks libraries."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verify_post(headers, b'{"test": 2432232314}', SECRET, 1614265330.0) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@pytest.mark.parametrize("change_s", [-TOLERANCE_S - 2, TOLERANCE_S + 2])
def test_post_from_another_time_is_refused(change_s: float) -> None:
    assert verify_post(signed(at=NOW + change_s), BODY, SECRET, NOW) is None


@pytest.mark.parametrize("change_s", [-TOLERANCE_S, TOLERANCE_S])
def test_clocks_may_differ_by_minutes(change_s: float) -> None:
    assert verify_post(signed(at=NOW + change_s), BODY, SECRET, NOW) == "msg_1"


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(body: bytes) -> None:
    assert (verify_post(signed(), body, SECRET, NOW) is not None) == (body == BODY)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_2"},
        {"webhook-id": ""},
        {"webhook-id": "m" * 1000},
        {"webhook-id": "msg_\u20ac"},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": f"{int(NOW)}.0"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-timestamp": "\u0661\u0662"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,\udcff\u20ac"},
        {"webhook-signature": signed()["webhook-signature"].replace("v1,", "v2,")},
        {"webhook-signature": signed()["webhook-signature"].removeprefix("v1,")},
        {"webhook-signature": signed(secret=OTHER)["webhook-signature"]},
        {"webhook-signature": "v1,x " * MAX_SIGNATURES + signed()["webhook-signature"]},
    ],
)
def test_changed_header_is_refused(change: dict[str, str]) -> None:
    assert verify_post({**signed(), **change}, BODY, SECRET, NOW) is None


def test_one_good_signature_among_several_is_enough() -> None:
    marks = f"v1,nonsense {signed()['webhook-signature']} v1a,later"
    assert verify_post({**signed(), "webhook-signature": marks}, BODY, SECRET, NOW) == "msg_1"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_***", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_secret_that_is_none_verifies_nothing(secret: str) -> None:
    assert verify_post(signed(), BODY, secret, NOW) is None


def test_what_the_double_of_the_api_signs_is_accepted() -> None:
    headers = sign_as_the_api(SECRET, "msg_9", BODY)
    assert verify_post(headers, BODY, SECRET, float(headers["webhook-timestamp"])) == "msg_9"


def test_token_is_the_same_in_every_process_and_another_for_each_run_upstream_and_server() -> None:
    secrets = Secrets.derive(b"s" * 32)
    token = hook_token(secrets, "replicate", "job")
    assert token == hook_token(Secrets.derive(b"s" * 32), "replicate", "job")
    others = {
        hook_token(secrets, "replicate", "job2"),
        hook_token(secrets, "replicatejob", ""),
        hook_token(Secrets.derive(b"t" * 32), "replicate", "job"),
    }
    assert token not in others
    assert len(others) == 3
    assert len(token) == 40
