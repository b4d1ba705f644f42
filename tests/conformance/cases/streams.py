"""Streams of text and of files."""

from __future__ import annotations

from typing import Any

from tests.conformance.bench import Bench, files_in
from tests.conformance.cases.registry import case


@case("stream a text", direct=1, miss=1, hit=0)
def stream_text(bench: Bench) -> Any:
    bench.needs("text")
    events = bench.ask("stream", **bench.text())["events"]
    text = "".join(data for event, data in events if event == "output")
    assert len(text.split()) >= 3
    return {"text": text, "kinds": sorted({event for event, _ in events})}


@case("stream files as they are made", direct=1, miss=1, hit=0)
def stream_files(bench: Bench) -> Any:
    bench.needs("files")
    events = bench.ask("stream", **bench.models.growing(3, bench.given()))["events"]
    files = [data for event, data in events if event == "output"]
    assert len(files_in(files)) == 3
    return {"files": files, "kinds": sorted({event for event, _ in events})}
