"""Files as inputs, in all the ways that clients give them."""

from __future__ import annotations

from typing import Any

from tests.conformance.bench import Bench, files_in
from tests.conformance.cases.registry import case


def _restyled(bench: Bench, how: str) -> Any:
    asked = bench.models.restyle(bench.given())
    output = bench.ask("file_input", **asked, field="image", path=bench.file(), how=how)["output"]
    assert len(files_in(output)) == 1
    return output


@case("give a file that is uploaded first", direct=1, miss=1, hit=0)
def file_uploaded(bench: Bench) -> Any:
    return _restyled(bench, "upload")


@case("give a file as a data URI", direct=1, miss=1, hit=0)
def file_as_data_uri(bench: Bench) -> Any:
    return _restyled(bench, "data_uri")


@case("give a Buffer", direct=1, miss=1, hit=0)
def file_as_buffer(bench: Bench) -> Any:
    return _restyled(bench, "buffer")


@case("give a Blob", direct=1, miss=1, hit=0)
def file_as_blob(bench: Bench) -> Any:
    return _restyled(bench, "blob")


@case("give the same bytes once uploaded and once as a data URI: one run for both", direct=2, miss=1, hit=0)
def file_both_ways(bench: Bench) -> Any:
    uploaded, inline = _restyled(bench, "upload"), _restyled(bench, "data_uri")
    assert uploaded == inline
    return uploaded


@case("give the output of one model to another", direct=2, miss=2, hit=0)
def output_as_input(bench: Bench) -> Any:
    second = bench.models.restyle(bench.given("second"))
    output = bench.ask(
        "output_as_input",
        **bench.models.file(bench.given()),
        second_model=second["model"],
        second_input=second["input"],
        field="image",
    )["output"]
    assert len(files_in(output)) == 1
    return output
