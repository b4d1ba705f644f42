"""npm ``replicate`` 1.4.0, unmodified, over plain http and over TLS."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path

from PIL import Image

from tests.clients.conftest import readme_example
from tests.flows.harness import README_MODEL, SMALL, ProxyProcess

ASK = """
import { createHash } from "node:crypto";
import Replicate from "replicate";
const replicate = new Replicate({
  auth: process.env.REPLICATE_API_TOKEN,
  baseUrl: `${process.env.REPLICATE_BASE_URL}/v1`,
});
const [model, given, mode] = process.argv.slice(2);
const output = await replicate.run(model, { input: JSON.parse(given), wait: { mode, interval: 100 } });
const bytes = Buffer.from(await (await output[0].blob()).arrayBuffer());
console.log(JSON.stringify({
  kind: output[0].constructor.name,
  size: bytes.length,
  sha256: createHash("sha256").update(bytes).digest("hex"),
}));
"""


def node(folder: Path, code: str, env: dict[str, str], *arguments: str, cwd: Path | None = None) -> str:
    """What a JavaScript program prints; it lies where it finds its packages and runs in ``cwd``."""
    script = folder / f"script-{secrets.token_hex(8)}.mjs"
    script.write_text(code, encoding="utf-8")
    try:
        done = subprocess.run(
            ["node", str(script), *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=110
        )
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_example_saves_a_picture(javascript: Path, client_env: dict[str, str], tmp_path: Path) -> None:
    node(javascript, readme_example("javascript"), client_env, cwd=tmp_path)
    with Image.open(tmp_path / "output.png") as picture:
        picture.load()
        assert picture.size == (512, 512)


def test_repeat_gives_the_same_bytes_without_a_run(
    javascript: Path, proxy: ProxyProcess, client_env: dict[str, str]
) -> None:
    given = json.dumps({"prompt": "a lighthouse, in JavaScript", **SMALL})
    first = json.loads(node(javascript, ASK, client_env, README_MODEL, given, "block"))
    runs = proxy.runs()
    for mode in ("block", "poll"):
        assert json.loads(node(javascript, ASK, client_env, README_MODEL, given, mode)) == first
    assert first["kind"] == "FileOutput"
    assert proxy.runs() == runs


def test_polling_sees_the_end_of_a_miss(javascript: Path, client_env: dict[str, str]) -> None:
    given = json.dumps({"prompt": "polled for from the start", **SMALL})
    answer = json.loads(node(javascript, ASK, client_env, README_MODEL, given, "poll"))
    assert answer["size"] > 100


STREAM = """
import Replicate from "replicate";
const replicate = new Replicate({
  auth: process.env.REPLICATE_API_TOKEN,
  baseUrl: `${process.env.REPLICATE_BASE_URL}/v1`,
});
const [model, given] = process.argv.slice(2);
const heard = [];
for await (const { event, id, data } of replicate.stream(model, { input: JSON.parse(given) })) {
  const isFile = event === "output";
  heard.push([event, id, isFile ? `${data.constructor.name} ${(await data.blob()).size}` : data]);
}
console.log(JSON.stringify(heard));
"""


def test_stream_gives_file_objects_on_miss_and_hit(
    javascript: Path, proxy: ProxyProcess, client_env: dict[str, str]
) -> None:
    given = json.dumps({"prompt": "streamed to JavaScript", **SMALL})
    runs = proxy.runs()
    miss = json.loads(node(javascript, STREAM, client_env, README_MODEL, given))
    assert [event for event, _, _ in miss if event != "logs"] == ["output", "done"]
    (picture,) = [data for event, _, data in miss if event == "output"]
    kind, size = picture.split()
    assert kind == "FileOutput"
    assert int(size) > 100
    hit = json.loads(node(javascript, STREAM, client_env, README_MODEL, given))
    assert _told(hit) == _told(miss)
    assert proxy.runs() == runs + 1


def _told(heard: list[list[str]]) -> tuple[list[tuple[str, str]], str]:
    """What a stream said, with its logs in one piece: live, they are told as often as they grow."""
    said = [(event, data) for event, _, data in heard if event != "logs"]
    return said, "".join(data for event, _, data in heard if event == "logs")


PAGE = """
import Replicate from "replicate";
const replicate = new Replicate({
  auth: process.env.REPLICATE_API_TOKEN,
  baseUrl: `${process.env.REPLICATE_BASE_URL}/v1`,
});
const model = process.argv[2], input = JSON.parse(process.argv[3]);
const made = [];
for (let count = 0; count < 130; count++) {
  made.unshift((await replicate.predictions.create({ model, input, wait: true })).id);
}
const pages = [];
for await (const page of replicate.paginate(replicate.predictions.list)) {
  pages.push(page.map((one) => one.id));
}
console.log(JSON.stringify({ made, pages }));
"""


def test_list_is_paged_through_newest_first(javascript: Path, client_env: dict[str, str]) -> None:
    given = json.dumps({"prompt": "listed in JavaScript", **SMALL})
    told = json.loads(node(javascript, PAGE, client_env, README_MODEL, given))
    assert len(told["pages"]) > 1
    assert len(told["pages"][0]) == 100
    listed = [name for page in told["pages"] for name in page]
    assert listed[:130] == told["made"]
    assert len(set(listed)) == len(listed)
