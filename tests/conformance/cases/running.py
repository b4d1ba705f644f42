"""Running models: every shape of output, and every way in which clients wait."""

from __future__ import annotations

from typing import Any

from tests.conformance.bench import Bench, Unsupported, files_in
from tests.conformance.cases.registry import case
from tests.conformance.repertoire import version_of

FILM_BYTES = 3_000_000


@case("run a model that gives a list of files", direct=1, miss=1, hit=0)
def run_files(bench: Bench) -> Any:
    bench.needs("files")
    output = bench.ask("run", **bench.models.list_of(2, bench.given()))["output"]
    assert files_in(output), output
    return output


@case("run a model that gives one file", direct=1, miss=1, hit=0)
def run_file(bench: Bench) -> Any:
    bench.needs("files")
    output = bench.ask("run", **bench.models.file(bench.given()))["output"]
    assert len(files_in(output)) == 1
    return output


@case("run a model that gives an object with files inside", direct=1, miss=1, hit=0)
def run_nested(bench: Bench) -> Any:
    bench.needs("files", "objects")
    output = bench.ask("run", **bench.models.nested(bench.given()))["output"]
    assert len(files_in(output)) == 2
    return output


@case("run a model that gives a video of three megabytes", direct=1, miss=1, hit=0)
def run_film(bench: Bench) -> Any:
    """The AI SDK makes videos by another way, which polls."""
    bench.needs("videos")
    output = bench.ask("run", **bench.models.film(FILM_BYTES, bench.given()), media="video")["output"]
    assert [each["size"] for each in files_in(output)] == [FILM_BYTES]
    return output


@case("run a model that writes piece by piece", direct=1, miss=1, hit=0)
def run_text(bench: Bench) -> Any:
    bench.needs("text")
    output = bench.ask("run", **bench.text())["output"]
    text = output if isinstance(output, str) else "".join(output)
    assert len(text.split()) >= 3
    return output


@case("run a model that gives one string", direct=1, miss=1, hit=0)
def run_string(bench: Bench) -> Any:
    bench.needs("text")
    if not bench.client.has_seeds:
        raise Unsupported("no seed reaches the model, whose text is another each time")
    output = bench.ask("run", **bench.models.string(bench.given()))["output"]
    assert isinstance(output, str)
    assert bench.case in output
    return output


@case("run a community model by its version", direct=1, miss=1, hit=0)
def run_version(bench: Bench) -> Any:
    bench.needs("files")
    reference = f"painters/brush:{version_of('painters/brush')}"
    output = bench.ask("run", model=reference, input=bench.given())["output"]
    assert len(files_in(output)) == 1
    return output


@case("run a community model that writes, asking for its pieces as they come", direct=1, miss=1, hit=0)
def run_pieces(bench: Bench) -> Any:
    """Python's client gives a generator here. It begins with what the create did *not* have yet, so a create that
    was not asked to wait must not answer with the whole output: nothing would be left to come."""
    bench.needs("text")
    given = {**bench.given(), "temperature": 0}
    reference = f"painters/poet:{version_of('painters/poet')}"
    output = bench.ask("run", model=reference, input=given, wait={"mode": "poll"})["output"]
    text = output if isinstance(output, str) else "".join(output)
    assert len(text.split()) >= 3
    return text


@case("run a model without holding the request, polling instead", direct=1, miss=1, hit=0)
def run_polling(bench: Bench) -> Any:
    output = bench.ask("run", **bench.plain(), wait={"mode": "poll"})["output"]
    assert output
    return output


@case("run a model that takes longer than its first answer", direct=1, miss=1, hit=0)
def run_slow(bench: Bench) -> Any:
    bench.needs("files")
    output = bench.ask("run", **bench.models.slow(1, bench.given()))["output"]
    assert len(files_in(output)) == 1
    return output


@case("run a model asynchronously", direct=1, miss=1, hit=0)
def run_async(bench: Bench) -> Any:
    return bench.ask("run_async", **bench.plain())["output"]
