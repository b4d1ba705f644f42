"""Where webhooks arrive: on loopback, over TLS and in plain http; every request is kept.

The API's double is told to trust the certificate. Hotplate trusts the usual authorities alone, so it is given the plain
address, as an operator names one of a private network.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request that arrived."""

    headers: dict[str, str]
    body: str


class Receiver:
    """Keeps what arrives, by path."""

    def __init__(self) -> None:
        self.tls_origin = ""
        self.plain_origin = ""
        self._arrived: dict[str, list[Delivery]] = {}
        self._news = threading.Condition()

    def keep(self, path: str, delivery: Delivery) -> None:
        with self._news:
            self._arrived.setdefault(path, []).append(delivery)
            self._news.notify_all()

    def wait_for(self, path: str, count: int, timeout_s: float) -> list[Delivery]:
        """What has arrived at ``path``: at least ``count``, or what there was when the time ran out."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while len(self._arrived.get(path, [])) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    break
            return list(self._arrived.get(path, []))


@contextmanager
def receiving(cert: Path, key: Path) -> Iterator[Receiver]:
    """A receiver that answers 200 until the block is left."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            receiver.keep(self.path, Delivery({n.lower(): v for n, v in self.headers.items()}, body.decode("utf-8")))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A peer that breaks off is no failure of the receiver."""

    class TlsServer(Server):
        def get_request(self) -> Any:
            """Shake hands in the request's own thread: a slow peer must not hold the others up."""
            connection, address = super().get_request()
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    receiver = Receiver()
    with Server(("127.0.0.1", 0), Handler) as plain, TlsServer(("127.0.0.1", 0), Handler) as tls:
        receiver.plain_origin = f"http://127.0.0.1:{plain.server_address[1]}"
        receiver.tls_origin = f"https://127.0.0.1:{tls.server_address[1]}"
        for server in (plain, tls):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield receiver
        finally:
            for server in (plain, tls):
                server.shutdown()
