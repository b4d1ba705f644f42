from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.telling import (
    Line,
    decode_log,
    encode_log,
    ending,
    is_good_end,
    more_logs,
    more_output,
    number,
    output_leaves,
    result_leaves,
    tell_result,
    tells_all,
)
from storage.digest import hash_bytes
from storage.errors import Corrupt
from storage.records import BlobRef, OutputFile, ResultRecord
from tests.fakes.stores import sample_record

text = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=6)


def a_file(place: int, data: bytes | None = None, name: str | None = None) -> OutputFile:
    blob = data if data is not None else bytes([place])
    return OutputFile((place,), BlobRef(hash_bytes(blob), len(blob)), "image/png", name or f"out-{place}.png")


def record_of(output: Any, files: tuple[OutputFile, ...] = (), logs: str = "") -> ResultRecord:
    return sample_record(output=output, files=files, logs=logs)


def said(lines: tuple[Line, ...]) -> list[tuple[str, Any]]:
    return [(line.name, line.data) for line in lines]


def test_list_of_files_is_told_file_by_file_after_the_logs() -> None:
    files = (a_file(0), a_file(1))
    told = tell_result(record_of([None, None], files, logs="step 1\n"))
    assert said(told) == [("logs", "step 1\n"), ("output", files[0]), ("output", files[1]), ("done", "{}")]


def test_ids_are_the_second_of_the_run_and_the_place() -> None:
    told = tell_result(record_of(["a", "b"]))
    assert [line.id for line in told] == ["1700000000:0", "1700000000:1", "1700000000:2"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("a whole text", ["a whole text"]),
        (["a", "", "b"], ["a", "b"]),
        (None, []),
        ("", []),
        ({"seed": 4}, ['{"seed":4}']),
        ([1, ["x"], None, True], ["1", '["x"]', "true"]),
        (2**70, [str(2**70)]),
    ],
)
def test_output_without_files_is_told_by_items(output: Any, expected: list[str]) -> None:
    assert output_leaves(output, {}) == expected


def test_only_the_files_of_a_deep_output_are_told() -> None:
    """At a files address every output event becomes a file object in the JavaScript client."""
    places = {("image",): "I", ("more", 0): "M"}
    assert output_leaves({"image": None, "seed": 7, "more": [None, "text"]}, places) == ["I", "M"]
    assert output_leaves([{"mask": None, "n": 1}, "text"], {(0, "mask"): "F"}) == ["F", "text"]


def test_output_that_is_one_file_is_one_event() -> None:
    assert output_leaves(None, {(): "F"}) == ["F"]


@given(text, text)
def test_only_what_logs_have_more_is_told(before: str, more: str) -> None:
    told = number([("logs", before)], 1.0)
    assert more_logs(told, before + more) == ([("logs", more)] if more else [])


def test_logs_that_were_cut_short_are_not_told_again() -> None:
    assert more_logs(number([("logs", "step 1\nstep 2\n")], 1.0), "step 2\n") == []


@given(st.lists(text, max_size=6), st.integers(0, 40))
def test_text_is_told_once_however_it_was_cut(items: list[str], cut: int) -> None:
    whole = "".join(items)
    told = number([("output", whole[:cut])], 1.0)
    more = more_output(told, [item for item in items if item])
    assert more is not None
    assert whole[:cut] + "".join(str(data) for _, data in more) == whole


def test_text_that_does_not_go_on_from_what_was_told_is_a_contradiction() -> None:
    told = number([("output", "Hello")], 1.0)
    assert more_output(told, ["Howdy"]) is None
    assert more_output(told, ["Hell"]) is None
    assert more_output(told, []) is None


def test_file_is_known_by_its_bytes_and_told_as_often_as_it_stands() -> None:
    first, again, other = a_file(0, b"x"), a_file(1, b"x"), a_file(2, b"y")
    told = number([("output", first)], 1.0)
    assert more_output(told, [first, again, other]) == [("output", again), ("output", other)]


def test_each_way_to_end_has_its_events() -> None:
    assert ending("succeeded", None) == [("done", "{}")]
    assert ending("canceled", None) == ending("aborted", None) == [("done", '{"reason":"canceled"}')]
    error, done = ending("failed", 'no "luck"')
    assert error[0] == "error"
    assert orjson.loads(str(error[1])) == {"detail": 'no "luck"'}
    assert done == ("done", '{"reason":"error"}')
    assert orjson.loads(str(ending("failed", None)[0][1]))["detail"]


@pytest.mark.parametrize(
    ("name", "data", "is_good"),
    [
        ("done", "{}", True),
        ("done", '{"reason":null}', True),
        ("done", '{"reason":"error"}', False),
        ("done", '{"reason":"canceled"}', False),
        ("done", "", False),
        ("done", "[]", False),
        ("output", "{}", False),
    ],
)
def test_only_a_done_without_a_reason_is_a_good_end(name: Any, data: str, is_good: bool) -> None:
    assert is_good_end(Line("1:0", name, data)) is is_good


def test_log_tells_all_when_nothing_of_the_result_is_missing() -> None:
    record = record_of([None, "caption"], (a_file(0),))
    whole = number([("output", a_file(0, name="other.png")), ("output", "cap"), ("output", "tion"), ("done", "{}")], 1)
    assert tells_all(whole, record)
    assert tells_all(tell_result(record), record)
    assert not tells_all(whole[1:], record)
    assert not tells_all(whole[:2] + whole[3:], record)
    assert not tells_all(whole[:3], record)
    assert not tells_all((), record)


@given(st.lists(text, max_size=5), text)
def test_result_is_told_in_one_way(items: list[str], logs: str) -> None:
    record = record_of(items, logs=logs)
    assert tell_result(record) == tell_result(replace(record))
    assert tells_all(tell_result(record), record)


def test_stored_log_reads_back_and_names_files_by_their_number() -> None:
    files = (a_file(0), a_file(1, name="b.png"))
    record = record_of([None, None], files)
    log = number([("logs", "x\n"), ("output", files[1]), ("output", files[0]), ("done", "{}")], 1_700_000_000)
    stored = encode_log(log, record)
    assert decode_log(stored, record) == log
    assert orjson.loads(stored)["events"][1] == ["1700000000:1", "output", 1]


def test_two_names_of_the_same_bytes_stay_apart_in_a_stored_log() -> None:
    files = (a_file(0, b"x"), a_file(1, b"x"))
    record = record_of([None, None], files)
    log = number([("output", files[0]), ("output", files[1])], 5)
    assert decode_log(encode_log(log, record), record) == log


def test_preview_that_the_result_does_not_hold_is_left_out_and_the_others_keep_their_ids() -> None:
    record = record_of([None], (a_file(0),))
    log = number([("output", a_file(9)), ("output", a_file(0)), ("done", "{}")], 5)
    assert [line.id for line in decode_log(encode_log(log, record), record)] == ["5:1", "5:2"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format":2,"events":[]}',
        b'{"format":1,"events":[["1:0","output",1]]}',
        b'{"format":1,"events":[["1:0","output",-1]]}',
        b'{"format":1,"events":[["1:0","output",true]]}',
        b'{"format":1,"events":[["1:0","shout","x"]]}',
        b'{"format":1,"events":[[1,"logs","x"]]}',
        b'{"format":1,"events":[["1:0"]]}',
        b'{"format":1,"events":7}',
    ],
)
def test_damaged_log_is_not_read(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_log(data, record_of([None], (a_file(0),)))


def test_leaves_of_a_record_are_its_files_in_place() -> None:
    record = record_of([None, "x"], (a_file(0),))
    assert result_leaves(record) == [a_file(0), "x"]
