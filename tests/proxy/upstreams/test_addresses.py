from __future__ import annotations

import pytest

from proxy.upstreams.addresses import EgressRefused, Location, is_public, parse_location, parse_origin

TRAPS = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::7f00:1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "3ffe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2606:4700::1111%eth0",
    "not an address",
]


@pytest.mark.parametrize("address", TRAPS)
def test_address_that_is_not_global_unicast_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "223.255.255.255", "::ffff:8.8.8.8",
     "64:ff9b::808:808", "2606:4700:4700::1111", "2a00:1450::1", "2001:4860:4860::8888"],
)  # fmt: skip
def test_global_unicast_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://good.test\\@127.0.0.1/", "url"),
        ("https://good.test/a\\b", "url"),
        ("https://good.test/a b", "url"),
        ("https://good.test/a\tb", "url"),
        ("https://good.test/\x00", "url"),
        ("https:good.test/", "url"),
        ("//good.test/", "url"),
        ("ftp://good.test/", "url"),
        ("file:///etc/passwd", "url"),
        ("data:image/png;base64,AA==", "url"),
        ("", "url"),
        ("https://good.test/" + "a" * 9000, "url"),
        ("https://user@good.test/", "userinfo"),
        ("https://user:pass@good.test/", "userinfo"),
        ("https://good.test@127.0.0.1/", "userinfo"),
        ("https:///path", "host"),
        ("https://", "host"),
        ("https://good.test:/", "host"),
        ("https://good.test:80:80/", "host"),
        ("https://good.test:abc/", "host"),
        ("https://good.test:\u0668\u0660/", "host"),
        ("https://good.test./", "host"),
        ("https://.good.test/", "host"),
        ("https://good..test/", "host"),
        ("https://-good.test/", "host"),
        ("https://good%2etest/", "host"),
        ("https://[example.com]/", "host"),
        ("https://[::1/", "host"),
        ("https://[fe80::1%25lo]/", "host"),
        ("https://::1/", "host"),
        ("https://127.1/", "host"),
        ("https://127.0.1/", "host"),
        ("https://2130706433/", "host"),
        ("https://0x7f.1/", "host"),
        ("https://0x7f000001/", "host"),
        ("https://0X7F.0.0.1/", "host"),
        ("https://127.0.0.0x1/", "host"),
        ("https://0177.0.0.1/", "host"),
        ("https://017700000001/", "host"),
        ("https://0/", "host"),
        ("https://1.2.3.4.5/", "host"),
        ("https://256.1.1.1/", "host"),
        ("https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "host"),
        ("https://127\u30020\u30020\u30021/", "host"),
        ("https://\u24d6ood.test/", "host"),
        ("https://good.test:0/", "port"),
        ("https://good.test:65536/", "port"),
    ],
)
def test_url_that_parsers_could_read_differently_is_refused(url: str, rule: str) -> None:
    with pytest.raises(EgressRefused) as refused:
        parse_location(url)
    assert refused.value.rule == rule


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("https://Replicate.Delivery/x/out-0.png", Location("https", "replicate.delivery", 443, "/x/out-0.png")),
        ("HTTP://a_b.test:8080", Location("http", "a_b.test", 8080, "/")),
        ("https://good.test?sig=a%2Fb&x=[1]#top", Location("https", "good.test", 443, "/?sig=a%2Fb&x=[1]")),
        ("https://good.test/\u00e9%41", Location("https", "good.test", 443, "/%C3%A9%41")),
        ("https://8.8.8.8:444/a", Location("https", "8.8.8.8", 444, "/a")),
        ("https://[2606:4700:0::1111]/a", Location("https", "2606:4700::1111", 443, "/a")),
        ("https://[::FFFF:127.0.0.1]/a", Location("https", "::ffff:7f00:1", 443, "/a")),
    ],
)
def test_url_is_taken_apart(url: str, location: Location) -> None:
    assert parse_location(url) == location


def test_location_is_put_together_for_the_wire() -> None:
    location = parse_location("https://[2606:4700::1]:8443/a?b")
    assert location.netloc == "[2606:4700::1]:8443"
    assert location.url == "https://[2606:4700::1]:8443/a?b"
    assert parse_location("http://good.test/a").at("2606:4700::2") == "http://[2606:4700::2]:80/a"
    assert parse_location("http://good.test:80/a").netloc == "good.test"


def test_refusal_names_no_path_and_no_query() -> None:
    with pytest.raises(EgressRefused) as refused:
        parse_location("https://127.1/secret?signature=abc")
    assert "secret" not in str(refused.value)
    assert "abc" not in str(refused.value)


def test_origin_is_read() -> None:
    assert parse_origin("http://10.0.0.5:9000") == ("http", "10.0.0.5", 9000)
    assert parse_origin("https://Files.internal/") == ("https", "files.internal", 443)


@pytest.mark.parametrize(
    "text", ["10.0.0.5:9000", "http://10.0.0.5/path", "http://10.0.0.5?x", "ftp://x", "http://127.1"]
)
def test_what_is_no_origin_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        parse_origin(text)
