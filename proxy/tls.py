"""Built-in TLS for the public listener.

Two sources of a certificate: the operator's own files (`given_files`), or a small certificate authority of this machine
(`LocalAuthority`) that users trust once and that signs a certificate for this machine's names. The authority carries a
critical name constraint, so that even its stolen key is of no use for any other host.

What is in the authority's directory (0700):

    ca-key.pem     0600  the authority: its key and, after it, its certificate
    ca.pem         0644  the authority's certificate alone, for clients that add it to their roots
    ca-bundle.pem  0644  certifi's roots and ours, for clients whose setting replaces their roots
    leaf-key.pem   0600  the server's key, kept over renewals
    leaf.pem       0644  the server's certificate, then the authority's
    lock           0600  held (flock) while any of these is read or written by `ensure`

Durability: each file is replaced by one rename of a synced temporary file, and each state in which a crash can leave
the directory is mended by the next `ensure`. An authority is one file, so that its key and certificate cannot disagree;
ca.pem, the bundle and the leaf are made from it. A renewal keeps the server's key, so that it is one rename too: who
loads the pair meanwhile gets the old certificate or the new one, both with their key.

This module neither logs nor waits: `TlsFiles.new_authority` is the sentence to log, `seconds_until_renewal` says when
to call `ensure` (or `given_files`) again, and `reload` brings its answer into the listener.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import platform
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakKeyDictionary

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY_S = 86_400

CA_LIFE_S = 3_650 * _DAY_S
"""Ten years: every replacement asks each user to trust anew."""

LEAF_LIFE_S = 397 * _DAY_S
"""The longest life that all browsers accept of a server certificate."""

RENEW_BEFORE_S = LEAF_LIFE_S / 3
"""A leaf with less left than this is renewed: four months in which any failure to renew can be seen and mended."""

CLOCK_SKEW_S = 3_600
"""How far in the past certificates begin, for clients whose clock is behind ours."""

GIVEN_CHECK_S = 3_600
"""How often the operator's own files are looked at: renewed by others, we do not know when."""

CA_KEY_FILE = "ca-key.pem"
CA_FILE = "ca.pem"
CA_BUNDLE_FILE = "ca-bundle.pem"
LEAF_KEY_FILE = "leaf-key.pem"
LEAF_FILE = "leaf.pem"
LOCK_FILE = "lock"

_SECRET, _PUBLIC = 0o600, 0o644

# The kind of key each context of `server_context` serves with, as a context does not tell.
_served_key_types: WeakKeyDictionary[ssl.SSLContext, str] = WeakKeyDictionary()

_Name = x509.DNSName | x509.IPAddress

_LOCAL_NAMES: tuple[_Name, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)
_LOCAL_TREES: tuple[_Name, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
    x509.IPAddress(ipaddress.ip_network("::1/128")),
)

# What RFC 1123 allows in a host name, plus the underscore that container names carry. An all-digit last label is a
# mistyped address, not a host.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)(?!\d+\Z)[a-z0-9_-]{1,63}(?<!-)\Z")

# What parsing a damaged, encrypted or foreign file raises.
_UNPARSABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound)


class TlsError(Exception):
    """TLS cannot be had as configured; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files a listener serves with.

    Attributes:
        cert_file: PEM, the server's certificate and its chain.
        key_file: PEM, its private key without a passphrase.
        ca_file: the local authority's certificate; ``None`` with the operator's own files.
        ca_bundle_file: public roots and the local authority; ``None`` with the operator's own files.
        not_after: when the server's certificate ends, epoch seconds.
        new_authority: ``None`` while the authority is the one from before; when it was just made, a sentence for the
            log: why, and that clients have to trust it.
    """

    cert_file: Path
    key_file: Path
    ca_file: Path | None
    ca_bundle_file: Path | None
    not_after: float
    new_authority: str | None = None


@dataclass(frozen=True, slots=True)
class _Issuer:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    permitted: tuple[x509.GeneralName, ...]


class LocalAuthority:
    """A certificate authority of this machine, and the one server certificate that it signs.

    Args:
        directory: where its files are; made (0700) when missing.
        names: host names and IP addresses, besides this machine's loopback ones, by which clients reach the listener.
        now: the clock, epoch seconds.

    Raises:
        TlsError: a name is neither a host name nor an IP address.
    """

    def __init__(self, directory: Path, names: Sequence[str] = (), now: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._names = tuple(dict.fromkeys((*_LOCAL_NAMES, *map(_parse_name, names))))
        self._now = now

    def ensure(self) -> TlsFiles:
        """Make or renew what is missing or near its end, and say what to serve with.

        It may be called at any time and by several processes; when nothing is to do it only reads. The server's
        certificate is made anew when it is damaged, in the last third of its life, or for other names. The authority is
        made anew only when a name is outside its constraints or it would end before a certificate made now.

        Raises:
            TlsError: a file cannot be read or written, the authority is damaged, or the clock is before its beginning.
        """
        with self._locked():
            now = self._now()
            issuer = self._load_issuer()
            reason = self._reason_for_new_issuer(issuer, now)
            if issuer is None or reason is not None:
                issuer = self._make_issuer(now)
            ca_pem = _pem(issuer.certificate)
            self._keep_ca_file(issuer.certificate, ca_pem)
            self._keep_bundle(ca_pem)
            key = self._keep_leaf_key()
            leaf = self._load_leaf(issuer, key, now)
            if leaf is None:
                leaf = _make_leaf(issuer, key.public_key(), self._names, now)
                self._write(LEAF_FILE, _pem(leaf) + ca_pem, _PUBLIC)
        ca_file = self._directory / CA_FILE
        news = f"A new certificate authority was made: {reason}. Clients have to trust {ca_file}."
        return TlsFiles(
            cert_file=self._directory / LEAF_FILE,
            key_file=self._directory / LEAF_KEY_FILE,
            ca_file=ca_file,
            ca_bundle_file=self._directory / CA_BUNDLE_FILE,
            not_after=leaf.not_valid_after_utc.timestamp(),
            new_authority=None if reason is None else news,
        )

    def _reason_for_new_issuer(self, issuer: _Issuer | None, now: float) -> str | None:
        if issuer is None:
            return "there was none"
        if now < issuer.certificate.not_valid_before_utc.timestamp():
            # More often a clock that is not set yet than an authority from the future, and its users trust it.
            raise TlsError(
                f"{self._directory / CA_KEY_FILE}: the authority begins only at"
                f" {issuer.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. Set this machine's clock; if the clock"
                f" is right, remove {self._directory} and have clients trust the new authority."
            )
        outside = [str(name.value) for name in self._names if not _is_permitted(name, issuer.permitted)]
        if outside:
            return f"the former one does not permit {', '.join(outside)}"
        if issuer.certificate.not_valid_after_utc.timestamp() < now + LEAF_LIFE_S:
            return f"the former one ends on {issuer.certificate.not_valid_after_utc:%Y-%m-%d}"
        return None

    def _load_issuer(self) -> _Issuer | None:
        data = self._read(CA_KEY_FILE)
        if data is None:
            if self._read(CA_FILE) is not None:
                raise self._damaged(CA_KEY_FILE, "is missing while its certificate is there")
            return None
        try:
            key = serialization.load_pem_private_key(data, None)
            certificate = x509.load_pem_x509_certificate(data)
            constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        except _UNPARSABLE as error:
            raise self._damaged(CA_KEY_FILE, "does not hold a key and its constrained certificate") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise self._damaged(CA_KEY_FILE, "holds a key and a certificate that do not belong together")
        return _Issuer(key, certificate, tuple(constraints.permitted_subtrees or ()))

    def _make_issuer(self, now: float) -> _Issuer:
        issuer = _make_issuer(self._names, now)
        # The former ca.pem goes first: a ca.pem that is not the authority's is then never the trace of a crash.
        with self._explained(CA_FILE, "removed"):
            (self._directory / CA_FILE).unlink(missing_ok=True)
            _sync_directory(self._directory)
        self._write(CA_KEY_FILE, _key_pem(issuer.key) + _pem(issuer.certificate), _SECRET)
        return issuer

    def _keep_ca_file(self, certificate: x509.Certificate, ca_pem: bytes) -> None:
        data = self._read(CA_FILE)
        if data is None:
            self._write(CA_FILE, ca_pem, _PUBLIC)
            return
        try:
            found = x509.load_pem_x509_certificate(data)
        except _UNPARSABLE as error:
            raise self._damaged(CA_FILE, "is not a certificate") from error
        if found != certificate:
            raise self._damaged(CA_FILE, f"is not the certificate in {CA_KEY_FILE}")

    def _keep_bundle(self, ca_pem: bytes) -> None:
        try:
            roots = certifi.contents().encode()
        except OSError as error:
            raise TlsError(f"certifi's roots cannot be read ({error}). Install certifi again.") from error
        bundle = roots.rstrip(b"\n") + b"\n\n" + ca_pem
        if self._read(CA_BUNDLE_FILE) != bundle:
            self._write(CA_BUNDLE_FILE, bundle, _PUBLIC)

    def _keep_leaf_key(self) -> ec.EllipticCurvePrivateKey:
        data = self._read(LEAF_KEY_FILE)
        if data is not None:
            with suppress(*_UNPARSABLE):
                key = serialization.load_pem_private_key(data, None)
                if isinstance(key, ec.EllipticCurvePrivateKey):
                    return key
        made = ec.generate_private_key(ec.SECP256R1())
        self._write(LEAF_KEY_FILE, _key_pem(made), _SECRET)
        return made

    def _load_leaf(self, issuer: _Issuer, key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate | None:
        """The server's certificate on disk, or ``None`` when it is missing, damaged, near its end or not this one."""
        data = self._read(LEAF_FILE)
        if data is None:
            return None
        try:
            leaf, *chain = x509.load_pem_x509_certificates(data)
            leaf.verify_directly_issued_by(issuer.certificate)
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (*_UNPARSABLE, InvalidSignature):
            return None
        is_current = (
            leaf.not_valid_before_utc.timestamp() <= now <= leaf.not_valid_after_utc.timestamp() - RENEW_BEFORE_S
        )
        is_ours = leaf.public_key() == key.public_key() and chain == [issuer.certificate]
        return leaf if is_current and is_ours and set(names) == set(self._names) else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._explained("", "made"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._explained(LOCK_FILE, "locked"):
            lock = os.open(self._directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, _SECRET)
        try:
            with self._explained(LOCK_FILE, "locked"):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)  # releases it, as does the end of the process

    def _read(self, name: str) -> bytes | None:
        with self._explained(name, "read"):
            try:
                return (self._directory / name).read_bytes()
            except FileNotFoundError:
                return None

    def _write(self, name: str, data: bytes, mode: int) -> None:
        with self._explained(name, "written"):
            _write_atomically(self._directory / name, data, mode)

    @contextmanager
    def _explained(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._directory / name
            raise TlsError(
                f"{path} cannot be {what} ({error.strerror}). The user who runs the proxy has to be able to read and"
                f" write {self._directory}."
            ) from error

    def _damaged(self, name: str, how: str) -> TlsError:
        return TlsError(
            f"{self._directory / name} {how}. Restore it from a copy, or remove {self._directory}: a new authority is"
            " then made, and clients have to trust it."
        )


def given_files(cert_file: Path, key_file: Path, now: Callable[[], float] = time.time) -> TlsFiles:
    """Check the operator's own certificate and key, and say when the certificate ends.

    Args:
        cert_file: PEM, the server's certificate first, then its chain.
        key_file: PEM, its private key without a passphrase.
        now: the clock, epoch seconds.

    Raises:
        TlsError: one cannot be read, they do not belong together, or the certificate is not valid at present.
    """
    certificate = _load_given(cert_file)
    files = TlsFiles(cert_file, key_file, None, None, certificate.not_valid_after_utc.timestamp())
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    if now() > files.not_after:
        raise TlsError(f"{cert_file} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC. Renew it.")
    if now() < certificate.not_valid_before_utc.timestamp():
        raise TlsError(
            f"{cert_file} begins only at {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. Check this machine's"
            " clock, or give a certificate that is valid now."
        )
    return files


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """The context of a listener: TLS 1.2 and up, HTTP/1.1, no renegotiation.

    Raises:
        TlsError: the files do not load or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, files)
    _served_key_types[context] = _key_type(files)
    return context


def reload(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Serve new connections of a running listener with these files; connections that are open stay as they are.

    Raises:
        TlsError: the files do not load, do not belong together, or are of another kind of key; the context then
            serves with what it had.
    """
    # A load that fails half way leaves a context without its key, so a context of no account tries first.
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    # OpenSSL keeps one certificate per kind of key: the former one would go on being served next to the new one.
    key_type = _key_type(files)
    if _served_key_types.get(context, key_type) != key_type:
        raise TlsError(f"{files.cert_file} has another kind of key than before. Restart the proxy to serve with it.")
    _load(context, files)


def seconds_until_renewal(files: TlsFiles, now: float) -> float:
    """How long to wait before `ensure`, or `given_files`, is called again; at least 0.

    For the local authority's certificate: until the last third of its life. The operator's own files are renewed by
    others and at any time, so they are looked at every `GIVEN_CHECK_S`.

    The answer is in wall-clock time, up to months: who waits for it on a machine that may sleep asks anew now and then.

    Args:
        files: what is served with.
        now: epoch seconds.
    """
    if files.ca_file is None:
        return GIVEN_CHECK_S
    return max(0.0, files.not_after - RENEW_BEFORE_S - now)


def _parse_name(text: str) -> _Name:
    name = text.strip().lower().removesuffix(".")
    with suppress(ValueError):
        if "%" not in name:  # an address of one interface only, which no certificate can name
            return x509.IPAddress(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    if not _HOST_NAME.match(name):
        raise TlsError(
            f"{text!r} is neither a host name nor an IP address. Give each name in full, without scheme, port or"
            " wildcard, and in its xn-- form when it has letters beyond a-z."
        )
    return x509.DNSName(name)


def _tree_of(name: _Name) -> _Name:
    """The name constraint that permits a name: a network of one address, or the host and what is below it."""
    if isinstance(name, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(str(name.value)))
    return name


def _is_permitted(name: _Name, trees: Sequence[x509.GeneralName]) -> bool:
    """Whether a name is within one of the permitted subtrees (RFC 5280 section 4.2.1.10)."""
    for tree in trees:
        if isinstance(name, x509.DNSName) and isinstance(tree, x509.DNSName):
            if name.value == tree.value or name.value.endswith(f".{tree.value}"):
                return True
        elif isinstance(name, x509.IPAddress) and isinstance(tree, x509.IPAddress):
            network = tree.value
            if isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) and name.value in network:
                return True
    return False


def _make_issuer(names: Sequence[_Name], now: float) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key()
    trees = [*_LOCAL_TREES, *(_tree_of(name) for name in names if not _is_permitted(name, _LOCAL_TREES))]
    # The host tells authorities of several machines apart, the random part those of one machine. 64 characters is
    # all that X.520 grants a common name.
    host = re.sub(r"[^A-Za-z0-9.-]", "", platform.node())[:24] or "this machine"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hotplate local CA {host} {secrets.token_hex(4)}")])
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    subject_key = x509.SubjectKeyIdentifier.from_public_key(public_key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - CLOCK_SKEW_S))
        .not_valid_after(_utc(now + CA_LIFE_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=trees, excluded_subtrees=None), critical=True)
        .add_extension(subject_key, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Issuer(key, certificate, tuple(trees))


def _make_leaf(
    issuer: _Issuer, public_key: ec.EllipticCurvePublicKey, names: Sequence[_Name], now: float
) -> x509.Certificate:
    begin = now - CLOCK_SKEW_S
    return (
        x509.CertificateBuilder()
        # Verifiers that also hold the common name against the constraints find one that is always permitted.
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(begin))
        .not_valid_after(_utc(begin + LEAF_LIFE_S - 1))  # the last second counts (RFC 5280 section 4.1.2.5)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
        .sign(issuer.key, hashes.SHA256())
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(int(at), UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_given(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise TlsError(f"{path} cannot be read ({error.strerror}). Check its path and who may read it.") from error
    except _UNPARSABLE as error:
        raise TlsError(f"{path} is not a certificate in PEM form.") from error


def _key_type(files: TlsFiles) -> str:
    return _load_given(files.cert_file).public_key_algorithm_oid.dotted_string


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    for path in (files.cert_file, files.key_file):
        try:
            path.read_bytes()  # OpenSSL does not say which of the two it could not read
        except OSError as error:
            raise TlsError(f"{path} cannot be read ({error.strerror}). Check its path and who may read it.") from error
    try:
        # Given a passphrase, though a wrong one, OpenSSL does not ask for it on the terminal.
        context.load_cert_chain(files.cert_file, files.key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{files.key_file} is not the key of {files.cert_file}. Give two of one pair.") from error
        raise TlsError(
            f"{files.cert_file} with {files.key_file} does not load ({error.reason or error}). Both have to be PEM,"
            " the key without a passphrase."
        ) from error


def _write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Replace a file by one rename; to be called with the lock held, as the temporary name is always the same."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # left by a process that ended in the middle of this
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
