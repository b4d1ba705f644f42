from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import hash_bytes
from storage.errors import Corrupt, StorageError
from storage.records import BlobRef, OutputFile, decode_record, encode_record
from tests.fakes.stores import sample_record

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(output=json_values, prompt=json_values)
def test_record_survives_encoding(output: Any, prompt: Any) -> None:
    record = sample_record(input={"prompt": prompt}, output=output)
    assert decode_record(encode_record(record)) == record


def test_files_survive_encoding() -> None:
    file = OutputFile(("layers", 3, "mask"), BlobRef(hash_bytes(b"x"), 1), "image/png", "mask.png")
    record = sample_record(files=(file,))
    assert decode_record(encode_record(record)).files == (file,)


def test_what_came_later_survives_encoding_and_older_records_have_none() -> None:
    record = sample_record(is_streamable=True, stream_log=BlobRef(hash_bytes(b"log"), 3), deployment="acme/live")
    assert decode_record(encode_record(record)) == record
    document = orjson.loads(encode_record(record))
    del document["is_streamable"], document["stream_log"], document["deployment"]
    older = decode_record(orjson.dumps(document))
    assert (older.is_streamable, older.stream_log, older.deployment) == (False, None, None)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, object(), {1: 2}, "\ud800"])
def test_value_without_a_json_form_is_refused(value: object) -> None:
    with pytest.raises(StorageError):
        encode_record(sample_record(input={"value": value}))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'"x"', b"\xff", b'{"format": 1}', b'{"format": 2}'])
def test_other_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_record(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("key", "ab"),
        ("key", None),
        ("scope", "A" * 64),
        ("record_id", "7"),
        ("record_id", -1),
        ("record_id", True),
        ("files", None),
        ("files", [{"path": [], "digest": "ab", "size_bytes": 1, "content_type": "a/b", "name": "x"}]),
        ("files", [{"path": [], "digest": "a" * 64, "size_bytes": -1, "content_type": "a/b", "name": "x"}]),
    ],
)
def test_field_of_another_kind_is_corrupt(field: str, value: object) -> None:
    document = orjson.loads(encode_record(sample_record()))
    document[field] = value
    with pytest.raises(Corrupt):
        decode_record(orjson.dumps(document))
