from __future__ import annotations

import base64
import copy
import gzip
import io
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proxy.core.addresses import is_name
from proxy.core.delivery import SendFile, plan_delivery
from proxy.core.outputs import (
    SNIFF_BYTES,
    UNKNOWN_TYPE,
    OutputAccess,
    OutputPlan,
    decode_data_url,
    encode_data_url,
    file_name,
    looks_whole,
    plan_output,
    sniff_type,
    substitute,
    whole_part,
)
from storage.digest import hash_bytes
from storage.records import JsonPath, JsonValue

ACCESS = OutputAccess(
    hosts=("replicate.delivery", "*.replicate.delivery"), origins=(("http", "10.0.0.5", 9000), ("https", "files", 443))
)
URL = "https://replicate.delivery/xezq/out-0.png"
DATA = "data:image/png;base64,iVBORw0KGgo="


def drawn(form: str, **options: Any) -> bytes:
    """A real picture of 48 x 48 pixels with some detail."""
    picture = Image.effect_noise((48, 48), 60).convert("RGB")
    body = io.BytesIO()
    picture.save(body, form, **options)
    return body.getvalue()


def zipped() -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), "words")  # of no time, so that it is the same each time
    return body.getvalue()


PICTURES = {
    "image/png": drawn("PNG"),
    "image/jpeg": drawn("JPEG"),
    "image/webp": drawn("WEBP"),
    "image/gif": drawn("GIF"),
    "image/avif": drawn("AVIF"),
    "image/bmp": drawn("BMP"),
    "image/tiff": drawn("TIFF"),
}


# -- where files stand ---------------------------------------------------------------------------------


def paths(plan: OutputPlan) -> list[JsonPath]:
    return [file.path for file in plan.files]


@pytest.mark.parametrize(
    ("output", "places"),
    [
        (URL, [()]),
        (DATA, [()]),
        ([URL, DATA], [(0,), (1,)]),
        ({"image": URL, "mask": [DATA, {"deep": [[URL]]}]}, [("image",), ("mask", 0), ("mask", 1, "deep", 0, 0)]),
        ({"b": URL, "a": URL}, [("b",), ("a",)]),
        ([[], {}, None, True, 1, 0.5, "text", URL], [(7,)]),
        (None, []),
        ("", []),
        ("a text that tells of https://replicate.delivery/x.png", []),
    ],
)
def test_files_are_found_at_any_depth_in_document_order(output: JsonValue, places: list[JsonPath]) -> None:
    plan = plan_output(output, ACCESS)
    assert paths(plan) == places
    assert plan.foreign == ()


def test_files_below_a_thousand_levels_are_found_too() -> None:
    output: JsonValue = URL
    for _ in range(5000):
        output = [output]
    assert paths(plan_output(output, ACCESS)) == [(0,) * 5000]


@pytest.mark.parametrize(
    "url",
    [
        "https://replicate.delivery/a.png",
        "https://pbxt.replicate.delivery/a.png",
        "HTTPS://Replicate.Delivery/a.png",
        "http://10.0.0.5:9000/out.png",
        "https://files/out.png",
        "https://files:443/out.png",
    ],
)
def test_url_at_the_upstreams_own_place_is_a_file(url: str) -> None:
    assert paths(plan_output(url, ACCESS)) == [()]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "http://replicate.delivery/a.png",
        "https://replicate.delivery.example.com/a.png",
        "https://evilreplicate.delivery/a.png",
        "https://example.com/replicate.delivery/a.png",
        "https://example.com?replicate.delivery",
        "https://example.com#@replicate.delivery",
        "https://replicate.delivery@example.com/a.png",
        "http://10.0.0.5/a.png",
        "https://10.0.0.5:9000/a.png",
        "http://10.0.0.5:9001/a.png",
        "http://127.0.0.1/a.png",
        "https://[::1",
        "https://files:99999/a.png",
        "https://",
        "HTTP://example.com/a.png",
    ],
)
def test_url_anywhere_else_is_foreign(url: str) -> None:
    plan = plan_output({"image": url}, ACCESS)
    assert plan.files == ()
    assert plan.foreign == (("image",),)


@pytest.mark.parametrize(
    "text",
    [
        "https://replicate.delivery/a.png and more words",
        "https://example.com/a\nhttps://example.com/b",
        "see https://example.com",
        "data: 1, 2, 3",
        "data:, what a word",
        "data:image without end",
        "data",
        "ftp://replicate.delivery/a.png",
        "//replicate.delivery/a.png",
    ],
)
def test_words_of_the_model_are_neither_file_nor_foreign(text: str) -> None:
    """A text model may well answer with something that begins like a URL; its words must come through unchanged."""
    assert plan_output([text], ACCESS) == OutputPlan((), ())


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,AAAA",
        "data:;base64,AAAA",
        "data:text/plain,hello%20there",
        "data:text/plain;charset=utf-8,hello",
        "data:image/svg+xml;charset=utf-8;base64,AAAA",
        "data:application/vnd.some-thing.v1+json;base64,AAAA",
    ],
)
def test_data_url_is_a_file(url: str) -> None:
    assert paths(plan_output(url, ACCESS)) == [()]


def test_nothing_is_covered_when_nothing_is_named() -> None:
    assert not OutputAccess().covers(URL)


# -- putting values in their places --------------------------------------------------------------------

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.sampled_from([URL, DATA]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(documents)
def test_files_put_back_in_their_places_give_the_same_document(output: JsonValue) -> None:
    before = copy.deepcopy(output)
    files = plan_output(output, ACCESS).files
    emptied = substitute(output, [(file.path, None) for file in files])
    assert output == before
    assert plan_output(emptied, ACCESS).files == ()
    assert substitute(emptied, [(file.path, file.url) for file in files]) == before


def test_what_is_not_replaced_is_shared_and_never_changed() -> None:
    kept = {"k": [1]}
    output = {"image": URL, "kept": kept}
    changed = substitute(output, [(("image",), "here")])
    assert changed == {"image": "here", "kept": {"k": [1]}}
    assert changed["kept"] is kept
    assert output["image"] == URL


# -- data URLs -----------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.sampled_from(["image/png", "text/plain", UNKNOWN_TYPE]))
def test_data_url_reads_back_as_its_bytes(data: bytes, content_type: str) -> None:
    url = encode_data_url(content_type, data)
    assert decode_data_url(url) == data
    assert plan_output(url, ACCESS).files[0].url == url


@pytest.mark.parametrize(
    ("url", "data"),
    [("data:text/plain,a%20b", b"a b"), ("data:;base64,", b""), ("data:text/plain,a,b", b"a,b")],
)
def test_data_url_is_decoded_as_its_rfc_says(url: str, data: bytes) -> None:
    assert decode_data_url(url) == data


@pytest.mark.parametrize("url", ["data:image/png;base64,AAA", "data:image/png;base64,AA!A", "data:image/png;base64"])
def test_broken_data_url_is_no_file(url: str) -> None:
    with pytest.raises(ValueError, match="data URL"):
        decode_data_url(url)


# -- what they are -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", PICTURES)
def test_picture_is_known_by_its_bytes(content_type: str) -> None:
    data = PICTURES[content_type]
    assert sniff_type(data[:SNIFF_BYTES]) == content_type
    assert sniff_type(data[:16]) == content_type


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"plain words\n", "text/plain"),
        ("r\u00e9sum\u00e9".encode(), "text/plain"),
        (("a" * (SNIFF_BYTES - 1) + "\u00e9").encode()[:SNIFF_BYTES], "text/plain"),
        (b'{"a": 1}', "application/json"),
        (b"%PDF-1.7\n", "application/pdf"),
        (zipped(), "application/zip"),
        (gzip.compress(b"words", mtime=0), "application/gzip"),
        (b"RIFF\x24\x08\x00\x00WAVEfmt ", "audio/wav"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00", "audio/mpeg"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "video/mp4"),
        (b"", UNKNOWN_TYPE),
        (b"\x00\x01\x02\x03", UNKNOWN_TYPE),
        (b"\xff\xfe\xfd", UNKNOWN_TYPE),
    ],
)
def test_other_files_are_known_or_honestly_unknown(data: bytes, content_type: str) -> None:
    assert sniff_type(data) == content_type


SCRIPTS = [
    b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    b"\n\n\t <svg/onload=alert(1)>",
    b"\xef\xbb\xbf<svg/onload=alert(1)>",
    "\ufeff<svg/onload=alert(1)>".encode("utf-16-le"),
    "<html>".encode("utf-16-be"),
    b"<!DOCTYPE html><html><script>alert(1)</script>",
    b"<!-- a comment --><html>",
    b"  <HTML><BODY>",
    b"<script>alert(1)</script>",
    b"words first <script>alert(1)</script>",
    b"<xsl:stylesheet version='1.0'>",
    b"<",
]


@pytest.mark.parametrize("data", SCRIPTS)
def test_what_a_browser_might_run_is_never_a_picture_and_never_inline(data: bytes) -> None:
    content_type = sniff_type(data)
    assert content_type in ("text/plain", UNKNOWN_TYPE)
    plan = plan_delivery({}, hash_bytes(data), len(data), content_type, 0.0, "out-0.bin")
    assert isinstance(plan, SendFile)
    assert dict(plan.headers)["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize("content_type", PICTURES)
@pytest.mark.parametrize("payload", [b"<script>alert(1)</script>", b"PK\x03\x04" + b"\x00" * 30, b"%PDF-1.4 <html>"])
def test_picture_that_is_something_else_as_well_stays_a_picture(content_type: str, payload: bytes) -> None:
    """Beside ``nosniff`` a browser then draws it; the other meaning has no way to be asked for."""
    assert sniff_type((PICTURES[content_type] + payload)[:SNIFF_BYTES]) == content_type


@given(
    st.binary(max_size=64),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"PK\x03\x04", b"<svg", b"ftyp"]),
)
def test_any_bytes_have_a_type_that_is_stored_under_its_own_name(rest: bytes, start: bytes) -> None:
    content_type = sniff_type(start + rest)
    assert content_type == content_type.lower()
    assert not content_type.endswith("xml")
    assert content_type != "text/html"
    assert is_name(file_name(0, DATA, content_type))


# -- whether they are whole ----------------------------------------------------------------------------

MARKED = ["image/png", "image/jpeg", "image/webp", "image/gif"]


@pytest.mark.parametrize("content_type", MARKED)
def test_whole_picture_looks_whole(content_type: str) -> None:
    data = PICTURES[content_type]
    assert looks_whole(content_type, len(data), data[:16], data[-16:])


@pytest.mark.parametrize("content_type", MARKED)
@pytest.mark.parametrize("cut", [1, 2, 12, 100, 400])
def test_truncated_picture_does_not_look_whole(content_type: str, cut: int) -> None:
    data = PICTURES[content_type][:-cut]
    assert not looks_whole(content_type, len(data), data[:16], data[-16:])


@pytest.mark.parametrize("content_type", ["image/avif", "video/mp4", "text/plain", UNKNOWN_TYPE, ""])
def test_type_without_an_end_mark_is_never_believed_to_be_whole(content_type: str) -> None:
    data = PICTURES["image/png"]
    assert not looks_whole(content_type, len(data), data[:16], data[-16:])


@pytest.mark.parametrize("content_type", MARKED)
def test_nothing_at_all_does_not_look_whole(content_type: str) -> None:
    assert not looks_whole(content_type, 0, b"", b"")


# -- how they are named --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "content_type", "name"),
    [
        ("https://h/x/out-0.png", "image/png", "out-0.png"),
        ("https://h/x/out-0.png", "image/webp", "out-0.webp"),
        ("https://h/x/My Fox (1).PNG?sig=abc#f", "image/png", "my-fox-1.png"),
        ("https://h/x/archive.tar.gz", "application/gzip", "archive.tar.gz"),
        ("https://h/x/.htaccess", UNKNOWN_TYPE, "htaccess.bin"),
        ("https://h/x/..", UNKNOWN_TYPE, "out-3.bin"),
        ("https://h/", "image/png", "out-3.png"),
        ("https://h", "image/png", "out-3.png"),
        ("https://h/%2e%2e%2fetc", "image/png", "2e-2e-2fetc.png"),
        ("https://h/r\u00e9sum\u00e9.png", "image/png", "r-sum.png"),
        ("https://h/a.svg", UNKNOWN_TYPE, "a.bin"),
        ("https://h/a.html", "text/plain", "a.txt"),
        ("https://h/" + "a" * 300 + ".png", "image/png", "a" * 40 + ".png"),
        ("data:image/png;base64,AAAA", "image/jpeg", "out-3.jpg"),
        ("data:text/html;base64,AAAA", "text/html", "out-3.bin"),
    ],
)
def test_file_is_named_by_its_stem_and_its_real_type(url: str, content_type: str, name: str) -> None:
    assert file_name(3, url, content_type) == name


@given(st.text(max_size=80), st.sampled_from([*PICTURES, UNKNOWN_TYPE, "text/html"]), st.integers(0, 10_000))
def test_every_name_may_stand_in_an_address(last: str, content_type: str, index: int) -> None:
    last = last.replace("[", "").replace("]", "")
    assert is_name(file_name(index, f"https://replicate.delivery/{last}", content_type))
    assert is_name(file_name(index, f"data:{last}", content_type))


def test_data_url_of_a_picture_is_a_round_trip() -> None:
    data = PICTURES["image/png"]
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    assert encode_data_url("image/png", decode_data_url(url)) == url


@pytest.mark.parametrize(
    ("output", "missing", "shown"),
    [
        (["a", "b"], [], ["a", "b"]),
        ([], [], []),
        ("text", [], "text"),
        (None, [], None),
        (["a", "b", "c"], [(2,), (1, "file", 0)], ["a"]),
        (["a", "b"], [(0,)], None),
        ("file", [()], None),
        ({"a": "text", "b": "file"}, [("b",)], None),
    ],
)
def test_output_is_shown_as_far_as_its_files_are_there(output: Any, missing: list[JsonPath], shown: Any) -> None:
    assert whole_part(output, missing) == shown
