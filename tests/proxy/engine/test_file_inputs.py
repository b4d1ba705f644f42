from __future__ import annotations

import pytest

from proxy.core.addresses import AddressBook
from proxy.core.errors import InputInvalid
from proxy.core.outputs import OutputAccess, decode_data_url
from proxy.core.secrets import Secrets
from proxy.engine.file_inputs import MAX_FILES, FileInputs
from proxy.engine.spool import Spool
from proxy.upstreams.egress import Egress, EgressFailed, EgressRefused
from storage.digest import Scope, hash_bytes
from tests.fakes.clock import ManualClock
from tests.fakes.engine import png
from tests.fakes.stores import MemoryContentStore, chunked
from tests.fakes.upstreams import FakeEgress, Served

pytestmark = pytest.mark.anyio

BASE = "http://127.0.0.1:8484"
URL = "https://example.com/cat.png"
RED = png("red")


class Desk:
    """File inputs over doubles."""

    def __init__(self, egress: object | None = None) -> None:
        self.egress = FakeEgress()
        self.blobs = MemoryContentStore()
        self.spool = Spool(2**20, ManualClock())
        self.addresses = AddressBook(Secrets.derive(b"s" * 32))
        self.files = FileInputs(
            egress or self.egress,  # type: ignore[arg-type]
            BASE,
            self.addresses,
            self.blobs,
            self.spool,
            {"near": OutputAccess(origins=(("http", "10.0.0.5", 9000),))},
        )


async def test_what_a_url_names_is_sent_along_as_data() -> None:
    desk = Desk()
    desk.egress.serve(URL, Served(RED))
    given = {"image": URL, "images": [URL], "prompt": "x"}
    sent = await desk.files.inline("far", given, None)
    assert sent["image"].startswith("data:image/png;base64,")
    assert decode_data_url(sent["image"]) == decode_data_url(sent["images"][0]) == RED
    assert given == {"image": URL, "images": [URL], "prompt": "x"}


async def test_input_without_urls_is_the_same_object() -> None:
    given = {"prompt": "x"}
    assert await Desk().files.inline("far", given, None) is given


async def test_output_of_this_proxy_is_read_from_the_store_or_the_spool() -> None:
    desk = Desk()
    await desk.blobs.put(chunked(RED), content_type="image/png", max_bytes=2**20)
    desk.spool.put(hash_bytes(b"spooled"), b"spooled", "text/plain")
    for data in (RED, b"spooled"):
        url = BASE + desk.addresses.path(hash_bytes(data), Scope(b"m" * 32), "out-0.png")
        sent = await desk.files.inline("far", {"image": url}, None)
        assert decode_data_url(sent["image"]) == data
    assert desk.egress.asked == []


@pytest.mark.parametrize("tail", ["", "x", "a/b/c", "../../secret.key", "0" * 64 + "/" + "0" * 32 + "/out-0.png"])
async def test_address_that_was_never_handed_out_is_refused(tail: str) -> None:
    with pytest.raises(InputInvalid, match="no such output"):
        await Desk().files.inline("far", {"image": f"{BASE}/outputs/{tail}"}, None)


@pytest.mark.parametrize(
    "answer", [Served(b"", status=404), EgressFailed("reset"), EgressRefused("address", "not a public address")]
)
async def test_file_that_cannot_be_had_is_told_with_its_place(answer: Served | Exception) -> None:
    desk = Desk()
    desk.egress.serve(URL, answer)
    with pytest.raises(InputInvalid) as refused:
        await desk.files.inline("far", {"deep": [URL]}, None)
    assert refused.value.fields[0].field == "input.deep.0"


async def test_number_of_files_is_bounded() -> None:
    desk = Desk()
    desk.egress.serve(URL, Served(RED))
    with pytest.raises(InputInvalid, match=f"at most {MAX_FILES}"):
        await desk.files.inline("far", {"images": [URL] * (MAX_FILES + 1)}, None)
    assert desk.egress.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]", "169.254.169.254", "0x7f.1"])
async def test_private_address_is_never_asked(host: str) -> None:
    egress = Egress()
    try:
        with pytest.raises(InputInvalid, match=r"may not be fetched|cannot be fetched"):
            await Desk(egress).files.inline("far", {"image": f"http://{host}:80/latest/meta-data"}, None)
        with pytest.raises(InputInvalid, match=r"may not be fetched|cannot be fetched"):
            await Desk(egress).files.inline("far", {"image": f"https://{host}/latest/meta-data"}, None)
    finally:
        await egress.aclose()
