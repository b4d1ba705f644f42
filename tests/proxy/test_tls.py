"""The local authority, the operator's own files, and what real clients make of them."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import shutil
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy import tls
from proxy.tls import LocalAuthority, TlsError, TlsFiles

DAY_S = 86_400
ROOT = Path(tls.__file__).parents[1]
# X509_V_ERR_PERMITTED_VIOLATION of OpenSSL's x509_vfy.h.
PERMITTED_VIOLATION = 47


class Clock:
    """The present, moved as a test likes; OpenSSL's own clock stays where it is."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tls"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def certificate_in(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of each file: equal when nothing was written."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in directory.iterdir()}


def sign(
    path: Path,
    names: list[x509.GeneralName],
    *,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    begins_in: timedelta = timedelta(hours=-1),
    ends_in: timedelta = timedelta(days=1),
    passphrase: bytes | None = None,
) -> tuple[Path, Path]:
    """Write a server certificate made by hand, self-signed unless an issuer is given, and its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "by hand")])
    issuer_name, issuer_key = issuer or (subject, key)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins_in)
        .not_valid_after(now + ends_in)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    cert_file, key_file = path.with_suffix(".pem"), path.with_suffix(".key")
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
    )
    return cert_file, key_file


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A loopback HTTPS server that answers "warm" to everything; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwarm")
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # a client that only shakes hands
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def shake_hands(port: int, name: str, client: ssl.SSLContext) -> ssl.SSLObject:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.read()).endswith(b"warm")
    writer.close()
    await writer.wait_closed()
    return connection


def client_of(ca_file: Path | None) -> ssl.SSLContext:
    """The strictest client at hand: Python 3.13 checks so by default."""
    assert ca_file is not None
    client = ssl.create_default_context(cafile=ca_file)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.set_alpn_protocols(["h2", "http/1.1"])
    return client


def connect(context: ssl.SSLContext, name: str, client: ssl.SSLContext) -> ssl.SSLObject:
    async def talk() -> ssl.SSLObject:
        async with serving(context) as port:
            return await shake_hands(port, name, client)

    return asyncio.run(talk())


async def output_of(*command: str, **env: str) -> tuple[int, str]:
    """A client program, run while the server in this loop answers it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is to be on the PATH in CI")
        pytest.skip(f"{name} is not on the PATH")
    return path


# What real clients make of it


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "cache.test", "10.1.2.3", "fd00::7"])
def test_client_that_trusts_the_authority_connects_by_each_name(directory: Path, name: str) -> None:
    files = LocalAuthority(directory, ["Cache.test.", "10.1.2.3", "[fd00::7]"]).ensure()
    connection = connect(tls.server_context(files), name, client_of(files.ca_file))
    assert connection.version() == "TLSv1.3"
    assert connection.selected_alpn_protocol() == "http/1.1"


def test_client_that_does_not_trust_the_authority_refuses(directory: Path) -> None:
    files = LocalAuthority(directory).ensure()
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(tls.server_context(files), "localhost", ssl.create_default_context(cafile=certifi.where()))


def test_client_refuses_a_name_that_was_not_configured(directory: Path) -> None:
    files = LocalAuthority(directory, ["cache.test"]).ensure()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(tls.server_context(files), "other.test", client_of(files.ca_file))


def test_listener_speaks_tls_1_2_and_up_and_does_not_renegotiate(directory: Path) -> None:
    context = tls.server_context(LocalAuthority(directory).ensure())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("asked", "names", "is_permitted"),
    [
        ("cache.test", [x509.DNSName("cache.test")], True),
        ("127.9.9.9", [x509.IPAddress(ipaddress.ip_address("127.9.9.9"))], True),
        ("bank.test", [x509.DNSName("bank.test")], False),
        ("notcache.test", [x509.DNSName("notcache.test")], False),
        ("localhost", [x509.DNSName("localhost"), x509.DNSName("bank.test")], False),
        ("10.1.2.3", [x509.IPAddress(ipaddress.ip_address("10.1.2.3"))], False),
        ("::2", [x509.IPAddress(ipaddress.ip_address("::2"))], False),
    ],
)
def test_stolen_authority_key_cannot_speak_for_other_hosts(
    directory: Path, tmp_path: Path, asked: str, names: list[x509.GeneralName], is_permitted: bool
) -> None:
    files = LocalAuthority(directory, ["cache.test"]).ensure()
    stolen = serialization.load_pem_private_key((directory / tls.CA_KEY_FILE).read_bytes(), None)
    assert isinstance(stolen, ec.EllipticCurvePrivateKey)
    assert files.ca_file is not None
    cert_file, key_file = sign(tmp_path / "forged", names, issuer=(certificate_in(files.ca_file).subject, stolen))
    server = tls.server_context(TlsFiles(cert_file, key_file, None, None, 0.0))
    client = ssl.create_default_context(cafile=files.ca_file)
    if is_permitted:
        connect(server, asked, client)
        return
    with pytest.raises(ssl.SSLCertVerificationError) as refusal:
        connect(server, asked, client)
    assert refusal.value.verify_code == PERMITTED_VIOLATION


def test_node_connects_with_its_extra_ca_certs(directory: Path) -> None:
    node = program("node")
    script = (
        "fetch(process.argv[1]).then(r => r.text()).then(console.log, e => { console.log(e.cause); process.exit(1) })"
    )
    files = LocalAuthority(directory).ensure()

    async def talk() -> None:
        async with serving(tls.server_context(files)) as port:
            for host in ("127.0.0.1", "localhost"):
                url = f"https://{host}:{port}/"
                assert await output_of(node, "-e", script, url, NODE_EXTRA_CA_CERTS=str(files.ca_file)) == (0, "warm\n")
            code, output = await output_of(node, "-e", script, url)
            assert code == 1, output

    asyncio.run(talk())


def test_python_client_connects_with_the_bundle_as_its_ssl_cert_file(directory: Path) -> None:
    script = "import httpx, sys; print(httpx.get(sys.argv[1]).text)"
    files = LocalAuthority(directory).ensure()

    async def talk() -> None:
        async with serving(tls.server_context(files)) as port:
            url = f"https://127.0.0.1:{port}/"
            bundle = str(files.ca_bundle_file)
            assert await output_of(sys.executable, "-c", script, url, SSL_CERT_FILE=bundle) == (0, "warm\n")
            code, output = await output_of(sys.executable, "-c", script, url)
            assert code == 1, output

    asyncio.run(talk())


def test_curl_connects_with_the_authority_as_its_cacert(directory: Path) -> None:
    curl = program("curl")
    files = LocalAuthority(directory).ensure()

    async def talk() -> None:
        async with serving(tls.server_context(files)) as port:
            url = f"https://127.0.0.1:{port}/"
            assert await output_of(curl, "-sS", "--cacert", str(files.ca_file), url) == (0, "warm")

    asyncio.run(talk())


# What is made


def test_directory_and_keys_are_for_their_owner_alone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes_at_birth: dict[str, int] = {}
    fsync = os.fsync

    def note_modes(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}")) if Path("/proc/self/fd").exists() else None
        if path is not None and path.is_file():
            modes_at_birth[path.name] = mode_of(path)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note_modes)
    former = os.umask(0)
    try:
        LocalAuthority(directory).ensure()
    finally:
        os.umask(former)
    assert mode_of(directory) == 0o700
    assert {path.name: mode_of(path) for path in directory.iterdir()} == {
        "ca-key.pem": 0o600,
        "ca.pem": 0o644,
        "ca-bundle.pem": 0o644,
        "leaf-key.pem": 0o600,
        "leaf.pem": 0o644,
        "lock": 0o600,
    }
    if modes_at_birth:
        assert modes_at_birth[".ca-key.pem.new"] == modes_at_birth[".leaf-key.pem.new"] == 0o600


def test_authority_is_constrained_to_this_machine_and_the_names(directory: Path) -> None:
    files = LocalAuthority(directory, ["cache.test", "10.1.2.3", "localhost", "127.0.0.2", "api.localhost"]).ensure()
    assert files.ca_file is not None
    extensions = certificate_in(files.ca_file).extensions
    constraints = extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.excluded_subtrees is None
    assert [str(tree.value) for tree in constraints.value.permitted_subtrees or ()] == [
        "localhost",
        "127.0.0.0/8",
        "::1/128",
        "cache.test",
        "10.1.2.3/32",
    ]
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature


def test_leaf_is_short_lived_and_for_servers_only(directory: Path, clock: Clock) -> None:
    files = LocalAuthority(directory, now=clock).ensure()
    leaf = certificate_in(files.cert_file)
    begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    assert begin == clock.now - tls.CLOCK_SKEW_S
    assert end == files.not_after
    assert end - begin < 397 * DAY_S
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert x509.load_pem_x509_certificates(files.cert_file.read_bytes())[1] == certificate_in(directory / "ca.pem")


def test_authorities_are_told_apart_by_their_names(tmp_path: Path) -> None:
    subjects = set()
    for name in ("one", "two"):
        LocalAuthority(tmp_path / name).ensure()
        subjects.add(certificate_in(tmp_path / name / "ca.pem").subject.rfc4514_string())
    assert len(subjects) == 2


def test_bundle_holds_the_public_roots_and_ours(directory: Path) -> None:
    files = LocalAuthority(directory).ensure()
    assert files.ca_bundle_file is not None
    public = ssl.create_default_context(cafile=certifi.where()).cert_store_stats()["x509"]
    client = ssl.create_default_context(cafile=files.ca_bundle_file)
    assert client.cert_store_stats()["x509"] == public + 1
    connect(tls.server_context(files), "localhost", client)


def test_bundle_follows_certifi(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = LocalAuthority(directory)
    authority.ensure()
    monkeypatch.setattr(certifi, "contents", lambda: "# fewer roots\n")
    authority.ensure()
    bundle = (directory / "ca-bundle.pem").read_text()
    assert bundle == "# fewer roots\n\n" + (directory / "ca.pem").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "*.test",
        "https://cache.test",
        "cache.test:443",
        "10.0.0.0/8",
        "300.1.1.1",
        "a..b",
        "-a.test",
        "a-.test",
        "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test",
        "fe80::1%eth0",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "cache.test\n.x",
    ],
)
def test_name_that_no_certificate_can_carry_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(TlsError, match="neither a host name nor an IP address"):
        LocalAuthority(directory, [name])


# Renewal


def test_nothing_is_written_when_nothing_is_to_do(directory: Path, clock: Clock) -> None:
    first = LocalAuthority(directory, ["cache.test"], clock).ensure()
    before = contents(directory)
    clock.now += 260 * DAY_S
    second = LocalAuthority(directory, ["cache.test"], clock).ensure()
    assert contents(directory) == before
    assert first.new_authority is not None
    assert "there was none" in first.new_authority
    assert second.new_authority is None
    assert second.not_after == first.not_after


def test_leaf_is_renewed_in_its_last_third_and_the_authority_kept(directory: Path, clock: Clock) -> None:
    authority = LocalAuthority(directory, now=clock)
    first, before = authority.ensure(), contents(directory)
    wait_s = tls.seconds_until_renewal(first, clock.now)
    assert 264 * DAY_S < wait_s < 265 * DAY_S
    clock.now += wait_s
    assert authority.ensure() == replace(first, new_authority=None)
    assert tls.seconds_until_renewal(first, clock.now) == 0
    clock.now += 1
    second, after = authority.ensure(), contents(directory)
    assert {name for name in before if before[name] != after[name]} == {"leaf.pem"}
    assert second.new_authority is None
    assert second.not_after == first.not_after + wait_s + 1
    assert tls.seconds_until_renewal(second, clock.now) == wait_s
    assert tls.seconds_until_renewal(first, clock.now + 999 * DAY_S) == 0


def test_leaf_follows_the_names_and_the_authority_is_kept_while_it_permits_them(directory: Path) -> None:
    LocalAuthority(directory, ["cache.test", "10.1.2.3"]).ensure()
    ca = (directory / "ca.pem").read_bytes()
    fewer = LocalAuthority(directory, ["eu.cache.test"]).ensure()
    assert fewer.new_authority is None
    assert (directory / "ca.pem").read_bytes() == ca
    names = certificate_in(fewer.cert_file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["localhost", "127.0.0.1", "::1", "eu.cache.test"]
    connect(tls.server_context(fewer), "eu.cache.test", client_of(fewer.ca_file))


def test_name_outside_the_constraints_makes_a_new_authority_and_says_so(directory: Path) -> None:
    former = LocalAuthority(directory, ["cache.test"]).ensure()
    former_client = client_of(former.ca_file)
    files = LocalAuthority(directory, ["cache.test", "other.test", "10.1.2.3"]).ensure()
    assert files.new_authority is not None
    assert "does not permit other.test, 10.1.2.3" in files.new_authority
    assert str(files.ca_file) in files.new_authority
    assert (directory / "ca-bundle.pem").read_text().endswith((directory / "ca.pem").read_text())
    context = tls.server_context(files)
    connect(context, "other.test", client_of(files.ca_file))
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(context, "cache.test", former_client)


@pytest.mark.parametrize(
    ("name", "is_permitted"),
    [
        ("a.localhost", True),
        ("127.8.8.8", True),
        ("eu.cache.test", True),
        ("notcache.test", False),
        ("test", False),
        ("10.1.2.4", False),
        ("::2", False),
    ],
)
def test_authority_is_kept_for_a_name_below_those_it_permits(directory: Path, name: str, is_permitted: bool) -> None:
    LocalAuthority(directory, ["cache.test", "10.1.2.3"]).ensure()
    files = LocalAuthority(directory, [name]).ensure()
    assert (files.new_authority is None) == is_permitted
    connect(tls.server_context(files), name, client_of(files.ca_file))


def test_authority_that_would_end_before_its_leaf_is_replaced(directory: Path, clock: Clock) -> None:
    authority = LocalAuthority(directory, now=clock)
    authority.ensure()
    ca = certificate_in(directory / "ca.pem")
    end = ca.not_valid_after_utc.timestamp()
    clock.now = end - tls.LEAF_LIFE_S
    kept = authority.ensure()
    assert kept.new_authority is None
    assert kept.not_after <= end
    clock.now += 1
    replaced = authority.ensure()
    assert replaced.new_authority is not None
    assert "ends on" in replaced.new_authority
    assert certificate_in(directory / "ca.pem") != ca


def test_clock_before_the_authority_is_told_and_changes_nothing(directory: Path, clock: Clock) -> None:
    authority = LocalAuthority(directory, now=clock)
    authority.ensure()
    before = contents(directory)
    clock.now = 0.0
    with pytest.raises(TlsError, match="Set this machine's clock"):
        authority.ensure()
    assert contents(directory) == before


def test_leaf_from_the_future_is_made_anew(directory: Path, clock: Clock) -> None:
    authority = LocalAuthority(directory, now=clock)
    authority.ensure()
    clock.now += 300 * DAY_S
    authority.ensure()
    clock.now -= 290 * DAY_S
    assert authority.ensure().not_after < clock.now + tls.LEAF_LIFE_S


def test_running_listener_serves_the_renewed_certificate(directory: Path, clock: Clock) -> None:
    present = clock.now
    clock.now -= 300 * DAY_S
    authority = LocalAuthority(directory, now=clock)
    context = tls.server_context(authority.ensure())

    async def talk() -> None:
        async with serving(context) as port:
            client = client_of(directory / "ca.pem")
            former = await shake_hands(port, "localhost", client)
            clock.now = present
            renewed = authority.ensure()
            unaware = await shake_hands(port, "localhost", client)
            tls.reload(context, renewed)
            aware = await shake_hands(port, "localhost", client)
        assert former.getpeercert(binary_form=True) == unaware.getpeercert(binary_form=True)
        leaf = certificate_in(renewed.cert_file).public_bytes(serialization.Encoding.DER)
        assert aware.getpeercert(binary_form=True) == leaf != former.getpeercert(binary_form=True)

    asyncio.run(talk())


def test_failed_reload_leaves_the_listener_as_it_was(directory: Path, tmp_path: Path) -> None:
    files = LocalAuthority(directory).ensure()
    context = tls.server_context(files)
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    cert_file, _ = sign(tmp_path / "one", names)
    _, key_file = sign(tmp_path / "two", names)
    with pytest.raises(TlsError, match="is not the key of"):
        tls.reload(context, TlsFiles(cert_file, key_file, None, None, 0.0))
    rsa_pair = sign(tmp_path / "rsa", names, key=rsa.generate_private_key(65537, 2048))
    with pytest.raises(TlsError, match="another kind of key"):
        tls.reload(context, tls.given_files(*rsa_pair))
    connect(context, "localhost", client_of(files.ca_file))


# Damage and crashes


@pytest.mark.parametrize("name", ["leaf.pem", "leaf-key.pem", "ca-bundle.pem"])
@pytest.mark.parametrize("damage", [b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_the_authority_can_make_again_is_mended(directory: Path, name: str, damage: bytes) -> None:
    LocalAuthority(directory).ensure()
    (directory / name).write_bytes(damage)
    files = LocalAuthority(directory).ensure()
    assert files.new_authority is None
    connect(tls.server_context(files), "localhost", client_of(files.ca_bundle_file))


@pytest.mark.parametrize("name", ["leaf.pem", "leaf-key.pem", "ca-bundle.pem", "ca.pem", "lock"])
def test_what_is_missing_is_made_again(directory: Path, name: str) -> None:
    LocalAuthority(directory).ensure()
    (directory / name).unlink()
    files = LocalAuthority(directory).ensure()
    assert files.new_authority is None
    connect(tls.server_context(files), "localhost", client_of(files.ca_file))


def test_leaf_of_a_foreign_authority_is_made_again(directory: Path, tmp_path: Path) -> None:
    LocalAuthority(directory).ensure()
    LocalAuthority(tmp_path / "other").ensure()
    for name in ("leaf.pem", "leaf-key.pem"):
        shutil.copy(tmp_path / "other" / name, directory / name)
    files = LocalAuthority(directory).ensure()
    connect(tls.server_context(files), "localhost", client_of(files.ca_file))


def test_leaf_without_its_chain_is_made_again(directory: Path) -> None:
    LocalAuthority(directory).ensure()
    leaf, chain = x509.load_pem_x509_certificates((directory / "leaf.pem").read_bytes())
    (directory / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    LocalAuthority(directory).ensure()
    assert x509.load_pem_x509_certificates((directory / "leaf.pem").read_bytes())[1] == chain


def test_leaf_that_only_claims_its_issuer_is_made_again(directory: Path, tmp_path: Path) -> None:
    ca = certificate_in(LocalAuthority(directory).ensure().cert_file.with_name("ca.pem"))
    key = serialization.load_pem_private_key((directory / "leaf-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    names = list(
        certificate_in(directory / "leaf.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    forged, _ = sign(tmp_path / "forged", names, issuer=(ca.subject, key), key=key, ends_in=timedelta(days=390))
    (directory / "leaf.pem").write_bytes(forged.read_bytes() + (directory / "ca.pem").read_bytes())
    files = LocalAuthority(directory).ensure()
    connect(tls.server_context(files), "localhost", client_of(files.ca_file))


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def swap(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def mix(path: Path, other: Path) -> None:
    key, certificate = path.read_bytes(), other.read_bytes()
    path.write_bytes(key[: key.index(b"-----BEGIN CERT")] + certificate[certificate.index(b"-----BEGIN CERT") :])


def remove(path: Path, other: Path) -> None:
    path.unlink()


def encrypt(path: Path, other: Path) -> None:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("ca-key.pem", cut),
        ("ca-key.pem", mix),
        ("ca-key.pem", remove),
        ("ca-key.pem", encrypt),
        ("ca.pem", cut),
        ("ca.pem", swap),
    ],
)
def test_damaged_authority_is_told_and_left_alone(
    directory: Path, tmp_path: Path, name: str, damage: Callable[[Path, Path], None]
) -> None:
    LocalAuthority(directory).ensure()
    LocalAuthority(tmp_path / "other").ensure()
    damage(directory / name, tmp_path / "other" / name)
    before = contents(directory)
    with pytest.raises(TlsError) as told:
        LocalAuthority(directory).ensure()
    assert str(told.value).startswith(str(directory / name))
    assert f"or remove {directory}:" in str(told.value)
    assert contents(directory) == before


def is_ended_at(step: int, authority: LocalAuthority) -> bool:
    """Run `ensure` up to its n-th sync, and say whether it came that far."""
    fsync, steps = os.fsync, iter(range(step + 1))

    def count(handle: int) -> None:
        fsync(handle)
        if next(steps) == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", count)
        try:
            authority.ensure()
        except KeyboardInterrupt:
            return True
    return False


@pytest.mark.parametrize("names", [[], ["new.test"]], ids=["first start", "replacement"])
def test_process_ended_between_two_steps_leaves_nothing_that_needs_a_hand(tmp_path: Path, names: list[str]) -> None:
    for step in range(99):
        directory = tmp_path / str(step)
        if names:
            LocalAuthority(directory).ensure()
        if not is_ended_at(step, LocalAuthority(directory, names)):
            break
        files = LocalAuthority(directory, names).ensure()
        for name in ["localhost", *names]:
            connect(tls.server_context(files), name, client_of(files.ca_bundle_file))
        assert not [path for path in directory.iterdir() if path.name.endswith(".new")]
    assert step > 5


def test_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(TlsError, match=r"tls cannot be made \(File exists\)"):
        LocalAuthority(tmp_path / "tls").ensure()


def test_file_that_cannot_be_read_is_told(directory: Path) -> None:
    LocalAuthority(directory).ensure()
    (directory / "leaf.pem").unlink()
    (directory / "leaf.pem").mkdir()
    with pytest.raises(TlsError, match=r"leaf\.pem cannot be read"):
        LocalAuthority(directory).ensure()


def test_processes_that_start_at_once_make_one_authority(directory: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from proxy.tls import LocalAuthority, server_context\n"
        "authority = LocalAuthority(Path(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "files = authority.ensure()\n"
        "server_context(files)\n"
        "print(files.new_authority is not None, files.not_after)"
    )
    directory.mkdir(parents=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        assert [path.name for path in directory.iterdir()] == ["lock"]
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(made for made, _ in answers) == ["False", "True"]
    assert len({not_after for _, not_after in answers}) == 1
    files = LocalAuthority(directory).ensure()
    assert files.new_authority is None
    connect(tls.server_context(files), "localhost", client_of(files.ca_file))


# The operator's own files

LOCALHOST: list[x509.GeneralName] = [x509.DNSName("localhost")]


@pytest.mark.parametrize("is_rsa", [False, True], ids=["EC", "RSA"])
def test_own_certificate_is_served(tmp_path: Path, is_rsa: bool) -> None:
    key = rsa.generate_private_key(65537, 2048) if is_rsa else None
    cert_file, key_file = sign(tmp_path / "own", LOCALHOST, key=key)
    files = tls.given_files(cert_file, key_file)
    assert files == TlsFiles(
        cert_file, key_file, None, None, certificate_in(cert_file).not_valid_after_utc.timestamp(), None
    )
    assert tls.seconds_until_renewal(files, 0.0) == tls.GIVEN_CHECK_S
    context = tls.server_context(files)
    tls.reload(context, files)
    connect(context, "localhost", ssl.create_default_context(cafile=cert_file))


@pytest.mark.parametrize("name", ["own.pem", "own.key"])
@pytest.mark.parametrize(("damage", "told"), [(None, "cannot be read"), (b"nothing", r"is not a cert|does not load")])
def test_own_file_that_does_not_load_is_told(tmp_path: Path, name: str, damage: bytes | None, told: str) -> None:
    pair = sign(tmp_path / "own", LOCALHOST)
    (tmp_path / name).unlink()
    if damage is not None:
        (tmp_path / name).write_bytes(damage)
    with pytest.raises(TlsError, match=told) as error:
        tls.given_files(*pair)
    assert str(tmp_path / name) in str(error.value)


def test_own_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    cert_file, _ = sign(tmp_path / "one", LOCALHOST)
    _, key_file = sign(tmp_path / "two", LOCALHOST)
    with pytest.raises(TlsError, match=r"two\.key is not the key of .*one\.pem"):
        tls.given_files(cert_file, key_file)


def test_own_key_with_a_passphrase_is_told_and_not_asked_for(tmp_path: Path) -> None:
    pair = sign(tmp_path / "own", LOCALHOST, passphrase=b"secret")
    with pytest.raises(TlsError, match="without a passphrase"):
        tls.given_files(*pair)


def test_own_certificate_that_ended_is_told(tmp_path: Path) -> None:
    pair = sign(tmp_path / "own", LOCALHOST, begins_in=timedelta(days=-9), ends_in=timedelta(seconds=-5))
    with pytest.raises(TlsError, match=r"own\.pem ended at .* Renew it"):
        tls.given_files(*pair)


def test_own_certificate_that_has_not_begun_is_told(tmp_path: Path) -> None:
    pair = sign(tmp_path / "own", LOCALHOST, begins_in=timedelta(hours=1))
    with pytest.raises(TlsError, match=r"own\.pem begins only at"):
        tls.given_files(*pair)
