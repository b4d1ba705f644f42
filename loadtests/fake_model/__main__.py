"""Command line: ``python -m loadtests.fake_model --port 0``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from loadtests.fake_model.api import make_api
from loadtests.fake_model.delivery import make_delivery
from loadtests.fake_model.wire import FaultLayer, TrackedProtocol
from loadtests.fake_model.world import Options, World

HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    """Leaves signals to ``serve``, which stops both listeners."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: Options, port: int, delivery_port: int, *, is_tied_to_stdin: bool) -> None:
    """Serve until SIGTERM or SIGINT, or until standard input ends when it is tied to that."""
    sockets = [_listen(port), _listen(delivery_port)]
    ports = [each.getsockname()[1] for each in sockets]
    world = World(options, f"http://{HOST}:{ports[0]}/v1", f"http://{HOST}:{ports[1]}")
    servers = [
        _server(FaultLayer(make_api(world), world, is_delivery=False)),
        _server(FaultLayer(make_delivery(world), world, is_delivery=True)),
    ]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if is_tied_to_stdin:
        loop.add_reader(sys.stdin.fileno(), stop)
    print(json.dumps({"port": ports[0], "delivery_port": ports[1], "pid": os.getpid()}), flush=True)
    await asyncio.gather(*(server.serve([each]) for server, each in zip(servers, sockets, strict=True)))


def _listen(port: int) -> socket.socket:
    listener = socket.create_server((HOST, port), backlog=2048)
    listener.setblocking(False)
    return listener


def _server(app: ASGIApp) -> _Server:
    config = uvicorn.Config(
        app,
        http=TrackedProtocol,
        loop="asyncio",
        lifespan="off",
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
        server_header=False,
    )
    return _Server(config)


def main() -> None:
    usual = Options()
    parser = argparse.ArgumentParser(prog="python -m loadtests.fake_model", description="A double of Replicate's API.")
    parser.add_argument("--port", type=int, default=0, help="port of the API; 0 picks a free one")
    parser.add_argument("--delivery-port", type=int, default=0, help="port of the output files; 0 picks a free one")
    parser.add_argument(
        "--account", action="append", metavar="NAME=TOKEN", help="an account, instead of the default ones"
    )
    parser.add_argument("--output-ttl-s", type=float, default=usual.output_ttl_s, help="life of outputs")
    parser.add_argument("--boot-s", type=float, default=usual.boot_s, help="what a cold community model takes to start")
    parser.add_argument("--idle-s", type=float, default=usual.idle_s, help="how long it stays warm")
    parser.add_argument("--page-size", type=int, default=usual.page_size, help="predictions on a page")
    parser.add_argument("--tied-to-stdin", action="store_true", help="end with standard input")
    given = parser.parse_args()
    accounts = usual.accounts
    if given.account:
        accounts = {token: name for name, _, token in (each.partition("=") for each in given.account)}
    options = Options(accounts, given.output_ttl_s, given.boot_s, given.idle_s, given.page_size)
    asyncio.run(serve(options, given.port, given.delivery_port, is_tied_to_stdin=given.tied_to_stdin))


if __name__ == "__main__":
    main()
