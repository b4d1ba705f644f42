from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.multipart import MAX_FIELD_BYTES, MAX_PARTS, UploadReader, frame_upload, parse_boundary
from storage.digest import hash_bytes

BOUNDARY = "xyz-boundary"


def part(name: str, data: bytes, more: str = "", headers: str = "") -> bytes:
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'.encode()
        + data
        + b"\r\n"
    )


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def read(data: bytes, piece_bytes: int = 2**20) -> tuple[UploadReader, bytes]:
    reader = UploadReader(BOUNDARY.encode())
    found = [reader.feed(data[start : start + piece_bytes]) for start in range(0, len(data), piece_bytes)]
    return reader, b"".join(found)


CONTENT = part("content", b"\x89PNG", '; filename="a cat.png"', "Content-Type: image/png\r\n")


@given(st.binary(max_size=300), st.integers(1, 40))
def test_content_is_found_however_the_body_is_cut(data: bytes, piece_bytes: int) -> None:
    tricky = data + f"\r\n--{BOUNDARY[:-1]}".encode() + data
    assume(f"\r\n--{BOUNDARY}".encode() not in tricky)  # what would end the part stands in no honest one
    reader, found = read(body(part("metadata", b"{}"), part("content", tricky), part("type", b"x/y")), piece_bytes)
    assert found == tricky
    assert reader.is_sound
    assert reader.fields == {"metadata": "{}", "type": "x/y"}
    assert reader.tally.size_bytes == len(tricky)
    assert reader.tally.digest == hash_bytes(tricky)
    assert reader.tally.sha256 == hashlib.sha256(tricky).hexdigest()


def test_name_and_type_of_the_content_are_told() -> None:
    reader, _ = read(body(CONTENT))
    assert (reader.filename, reader.content_type) == ("a cat.png", "image/png")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no multipart at all",
        body(part("other", b"x")),
        body(CONTENT, CONTENT),
        body(CONTENT, part("type", b"a"), part("type", b"b")),
        body(part("content", b"eA==", "", "Content-Transfer-Encoding: base64\r\n")),
        body(part("content", b"x", "", 'Content-Disposition: form-data; name="type"\r\n')),
        body(part("", b"x"), CONTENT),
        body(CONTENT, part("metadata", b"x" * (MAX_FIELD_BYTES + 1))),
        body(CONTENT, *(part(f"f{number}", b"") for number in range(MAX_PARTS))),
        body(CONTENT)[:-7],
        CONTENT,
        b"preamble" + body(CONTENT),
    ],
)
def test_body_that_leaves_a_doubt_says_nothing_of_a_file(data: bytes) -> None:
    assert not read(data)[0].is_sound
    assert not read(data, 1)[0].is_sound


def test_what_is_written_can_be_read() -> None:
    head, tail = frame_upload(BOUNDARY, "in.png", "image/png")
    reader, found = read(head + b"bytes\r\n" + tail)
    assert (found, reader.is_sound, reader.filename, reader.content_type) == (b"bytes\r\n", True, "in.png", "image/png")


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=abc", None),
        (f"multipart/form-data; boundary={'x' * 71}", None),
        ("application/json", None),
        (None, None),
    ],
)
def test_boundary_is_read_from_the_header(header: str | None, boundary: bytes | None) -> None:
    assert parse_boundary(header) == boundary
