"""Command line: ``python -m loadtests.fake_model --port 0``."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from loadtests.fake_model.listeners import Binding, Tls, serve
from loadtests.fake_model.world import Options

_EPILOG = """
Standard output gets one JSON line with the ports. The API's own port has routes that steer the double: /_fault,
/_gate, /_options, /_expire, /_release and /_counters; loadtests.fake_model.process.FakeModel calls them.
"""


def main() -> None:
    parser = _parser()
    given = parser.parse_args()
    if bool(given.tls_cert) != bool(given.tls_key):
        parser.error("--tls-cert and --tls-key come together")
    if given.names and not given.tls_cert:
        parser.error("--names needs --tls-cert and --tls-key")
    tls = None
    if given.tls_cert:
        binding = Binding(given.tls_port, given.tls_delivery_port, given.tls_stream_port)
        tls = Tls(given.tls_cert, given.tls_key, binding, has_names=given.names)
    plain = Binding(given.port, given.delivery_port, given.stream_port)
    asyncio.run(serve(_options(given), plain, tls, is_tied_to_stdin=given.tied_to_stdin))


def _options(given: argparse.Namespace) -> Options:
    accounts = Options().accounts
    if given.account:
        accounts = {token: name for name, _, token in (each.partition("=") for each in given.account)}
    return Options(
        accounts=accounts,
        output_ttl_s=given.output_ttl_s,
        boot_s=given.boot_s,
        idle_s=given.idle_s,
        page_size=given.page_size,
        model_page_size=given.model_page_size,
        file_ttl_s=given.file_ttl_s,
        max_file_bytes=given.max_file_bytes,
        is_stream_inline=given.stream_inline,
        min_cancel_after_s=given.min_cancel_after_s,
        rate_limit=given.rate_limit,
        rate_window_s=given.rate_window_s,
        poor=frozenset(given.poor),
        webhook_addresses=not given.webhooks_https_only,
        webhook_attempts=given.webhook_attempts,
        webhook_backoff_s=given.webhook_backoff_s,
        webhook_gap_s=given.webhook_gap_s,
        webhook_ca=given.webhook_ca,
        fetch_ca=given.fetch_ca,
        is_loopback_only=not given.beyond_loopback,
    )


def _parser() -> argparse.ArgumentParser:
    usual = Options()
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.fake_model",
        description="A double of Replicate's API, on loopback.",
        epilog=_EPILOG,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--tied-to-stdin", action="store_true", help="end with standard input")

    sites = parser.add_argument_group("sites", "ports; 0 picks a free one")
    sites.add_argument("--port", type=int, default=0, help="of the API")
    sites.add_argument("--delivery-port", type=int, default=0, help="of the output files")
    sites.add_argument("--stream-port", type=int, default=0, help="of the streams")
    sites.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM) of a second site over TLS")
    sites.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    sites.add_argument("--tls-port", type=int, default=0, help="its port of the API")
    sites.add_argument("--tls-delivery-port", type=int, default=0, help="its port of the output files")
    sites.add_argument("--tls-stream-port", type=int, default=0, help="its port of the streams")
    sites.add_argument("--names", action="store_true", help="the TLS site goes by the real service's names, no ports")

    accounts = parser.add_argument_group("accounts and limits")
    accounts.add_argument(
        "--account", action="append", metavar="NAME=TOKEN", help="an account, instead of the default ones"
    )
    accounts.add_argument("--poor", action="append", default=[], metavar="NAME", help="an account without credit: 402")
    accounts.add_argument("--rate-limit", type=int, metavar="N", help="creates of an account in a window; beyond: 429")
    accounts.add_argument("--rate-window-s", type=float, default=usual.rate_window_s, help="length of the window")

    runs = parser.add_argument_group("predictions")
    runs.add_argument("--output-ttl-s", type=float, default=usual.output_ttl_s, help="life of outputs and data")
    runs.add_argument("--boot-s", type=float, default=usual.boot_s, help="what a cold community model takes to start")
    runs.add_argument("--idle-s", type=float, default=usual.idle_s, help="how long it stays warm")
    runs.add_argument("--page-size", type=int, default=usual.page_size, help="predictions, trainings, files on a page")
    runs.add_argument("--model-page-size", type=int, default=usual.model_page_size, help="models on a page")
    runs.add_argument(
        "--min-cancel-after-s", type=float, default=usual.min_cancel_after_s, help="shortest Cancel-After taken"
    )
    runs.add_argument("--stream-inline", action="store_true", help="streams tell files as data URIs")

    files = parser.add_argument_group("files")
    files.add_argument("--max-file-bytes", type=int, default=usual.max_file_bytes, help="largest upload")
    files.add_argument("--file-ttl-s", type=float, default=usual.file_ttl_s, help="life of uploaded files")
    files.add_argument("--fetch-ca", type=Path, metavar="FILE", help="authorities (PEM) for hosts of file inputs")

    webhooks = parser.add_argument_group("webhooks")
    webhooks.add_argument("--webhook-ca", type=Path, metavar="FILE", help="authorities (PEM) for receivers")
    webhooks.add_argument("--webhooks-https-only", action="store_true", help="refuse plain http to loopback, too")
    webhooks.add_argument("--webhook-attempts", type=int, default=usual.webhook_attempts, help="tries of a delivery")
    webhooks.add_argument(
        "--webhook-backoff-s", type=float, default=usual.webhook_backoff_s, help="pause before the second, then doubled"
    )
    webhooks.add_argument(
        "--webhook-gap-s", type=float, default=usual.webhook_gap_s, help="least time between two of output or logs"
    )
    webhooks.add_argument(
        "--beyond-loopback", action="store_true", help="call receivers and fetch file inputs on other machines, too"
    )
    return parser


if __name__ == "__main__":
    main()
