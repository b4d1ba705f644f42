"""The command ``hotplate``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.text import Text

from proxy import __version__, logs
from proxy.clientenv import Format, client_environment, listening_url, render_environment
from proxy.commands import controls, explain, observed
from proxy.commands.admin import ConfigOption
from proxy.core.money import DAYS
from proxy.data_dir import make_data_dir
from proxy.demo import UPSTREAM, DemoFailed, run_demo
from proxy.doctor import diagnose
from proxy.serving import serve, tls_files
from proxy.settings import Settings, SettingsError, load_settings
from proxy.stats import read_stats, show_stats
from proxy.supervisor import serve_workers
from proxy.token_commands import tokens_app
from storage.errors import StorageError

app = typer.Typer(
    help="An edge image caching proxy for model APIs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(tokens_app, name="tokens")

HostOption = Annotated[str | None, typer.Option(help="Address of the public listener.")]
PortOption = Annotated[int | None, typer.Option(help="Port of the public listener; 0 picks a free one.")]
AdminPortOption = Annotated[int | None, typer.Option(help="Port of the admin listener; 0 picks a free one.")]
TlsOption = Annotated[bool, typer.Option("--tls", help="Serve over TLS with a certificate from a local authority.")]


def main() -> None:
    """Entry point: errors that a person can mend are one line and exit code 2."""
    try:
        app()
    except (SettingsError, StorageError) as error:
        Console(stderr=True).print(Text(f"hotplate: {error}", style="red"), soft_wrap=True)
        sys.exit(2)


def _settings(
    config: Path | None,
    host: str | None = None,
    port: int | None = None,
    admin_port: int | None = None,
    tls: bool = False,
    **more: Any,
) -> Settings:
    overrides: dict[str, Any] = {"public": {}, "admin": {}, "tls": {}, **more}
    if host is not None:
        overrides["public"]["host"] = host
    if port is not None:
        overrides["public"]["port"] = port
    if admin_port is not None:
        overrides["admin"]["port"] = admin_port
    if tls:
        overrides["tls"]["mode"] = "local-ca"
    return load_settings(config, overrides)


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(main)
        except ExceptionGroup as group:
            # A listener's own failure arrives wrapped by the task group; the first one tells.
            raise group.exceptions[0] from None


@app.command("serve")
def serve_command(
    config: ConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    admin_port: AdminPortOption = None,
    tls: TlsOption = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes that take requests; with more than one, another runs the models.")
    ] = None,
) -> None:
    """Serve in front of the configured model services; without a configuration, of Replicate's API."""
    more = {"workers": {"count": workers}} if workers is not None else {}
    settings = _settings(config, host, port, admin_port, tls, **more)
    log = logs.configure(settings.log.level, settings.log.format)
    _run(serve(settings, log) if settings.workers.count == 1 else serve_workers(settings))


@app.command()
def demo(
    config: ConfigOption = None,
    port: PortOption = None,
    admin_port: AdminPortOption = None,
    tls: TlsOption = False,
    once: Annotated[bool, typer.Option("--once", help="Stop when everything has been shown.")] = False,
    simulated_download: Annotated[
        float, typer.Option(min=0.0, help="Seconds that the download of weights is pretended to take; shown apart.")
    ] = 0.0,
) -> None:
    """Start everything on the embedded model, draw a picture cold, warm and from the cache, and go on serving."""
    settings = _settings(
        config, None, port, admin_port, tls, upstream=[{**UPSTREAM, "simulated_download_s": simulated_download}]
    )
    log = logs.configure("warning" if settings.log.level == "info" else settings.log.level, settings.log.format)
    console = Console()
    try:
        _run(run_demo(settings, console, log, once=once))
    except DemoFailed as error:
        console.print(Text(f"hotplate demo: {error}", style="red"))
        sys.exit(1)


@app.command()
def env(
    config: ConfigOption = None,
    tls: TlsOption = False,
    form: Annotated[str, typer.Option("--format", help="sh, fish or json.")] = "sh",
) -> None:
    """Print what a client's shell needs: eval "$(hotplate env)"."""
    forms: dict[str, Format] = {"sh": "sh", "fish": "fish", "json": "json"}
    if form not in forms:
        raise SettingsError(f"--format: {form!r} is not one of sh, fish, json")
    print(render_environment(_client_environment(_settings(config, tls=tls)), forms[form]))


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_command(context: typer.Context, config: ConfigOption = None, tls: TlsOption = False) -> None:
    """Run a command with that environment: hotplate run -- python app.py."""
    if not context.args:
        raise SettingsError("run: say what to run, e.g. hotplate run -- python app.py")
    variables = _client_environment(_settings(config, tls=tls))
    try:
        os.execvpe(context.args[0], context.args, {**os.environ, **variables})  # noqa: S606 - what the command is for
    except OSError as error:
        raise SettingsError(f"run: {context.args[0]}: {error.strerror}") from error


def _client_environment(settings: Settings) -> dict[str, str]:
    files = None
    if settings.tls.mode == "local-ca":
        make_data_dir(settings.data_dir)
        files = tls_files(settings)
    ca_file = files.ca_file if files is not None else None
    ca_bundle_file = files.ca_bundle_file if files is not None else None
    return client_environment(listening_url(settings), ca_file, ca_bundle_file)


app.command()(explain.explain)
app.command()(observed.observe)
app.command()(controls.bypass)
app.command()(controls.reload)
app.command()(controls.purge)


@app.command()
def stats(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    days: Annotated[int, typer.Option(help="How many days, today (UTC) included.")] = DAYS,
    by: Annotated[str, typer.Option(help="model, scope or day.")] = "model",
    scope: Annotated[str, typer.Option(help="Only this scope: its first hex digits, as --by scope shows them.")] = "",
) -> None:
    """Say what was spent and what was saved: runs made and avoided, their seconds and money, total and earned."""
    asked = {"days": str(days), "by": by, "scope": scope}
    document, is_running = read_stats(_settings(config), asked)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        show_stats(document, is_running, Console())


@app.command()
def doctor(config: ConfigOption = None, tls: TlsOption = False) -> None:
    """Check trust, upstreams, credential, public URL, disk and clock: one line each, with a remedy."""
    settings = _settings(config, tls=tls)
    console = Console()
    has_failed = False
    for finding in diagnose(settings, os.environ.get("REPLICATE_API_TOKEN")):
        mark = Text("ok  ", style="green") if finding.is_ok else Text("FAIL", style="red")
        line = Text.assemble(mark, f"  {finding.name}: {finding.detail}")
        if not finding.is_ok:
            has_failed = True
            line.append(f" → {finding.remedy}")
        console.print(line, soft_wrap=True)
    if has_failed:
        sys.exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    print(f"hotplate {__version__}")
