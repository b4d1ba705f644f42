"""What clients see of runs at real Cog servers, of both dialects, while they go on."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.upstreams.environments import ensure_environment, python_of
from proxy.upstreams.news_desk import POSTS_PATH
from tests.flows.harness import ROOT, SHARED_ENVS, ProxyProcess, running_proxy
from tests.flows.test_cog_servers import CogServer, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODELS = Path(__file__).parent / "models"
LOCKS = {
    "coglet": ROOT / "deploy" / "demo-model" / "requirements.lock",
    "fastapi": MODELS / "requirements-fastapi.lock",
}
CREATE = "/v1/models/acme/model/predictions"


def model_folder(folder: Path, name: str) -> Path:
    """A folder with one of ``tests/flows/models`` in it, as Cog wants it."""
    folder.mkdir()
    shutil.copy(MODELS / f"{name}.py", folder / "predict.py")
    (folder / "cog.yaml").write_text('predict: "predict.py:Predictor"\n', encoding="utf-8")
    return folder


class Journey:
    """A proxy before one model, and a client of it that looks often."""

    def __init__(self, proxy: ProxyProcess, dialect: str) -> None:
        self.proxy = proxy
        self.dialect = dialect
        self.http = httpx.Client(base_url=proxy.public_url, timeout=60, trust_env=False)

    def create(self, **given: Any) -> dict[str, Any]:
        answer = self.http.post(CREATE, json={"input": given})
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    def follow(self, created: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The prediction again and again, until it has ended."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            prediction = self.http.get(f"/v1/predictions/{created['id']}").json()
            yield prediction
            if prediction["status"] not in ("starting", "processing"):
                return
            time.sleep(0.03)
        raise AssertionError(f"it did not end: {prediction}")


@pytest.fixture(scope="module", params=["coglet", "fastapi", "local"])
def journeys(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Journey]]:
    """Journeys by model; ``local`` has copies that the proxy starts, the others a server that the user started."""
    dialect, root = request.param, tmp_path_factory.mktemp(request.param)
    cleanups: list[Callable[[], object]] = []
    opened: dict[str, Journey] = {}
    lock = LOCKS["coglet" if dialect == "local" else dialect]

    def open_journey(name: str) -> Journey:
        if name in opened:
            return opened[name]
        folder = model_folder(root / name, name)
        config = '[cache]\noutput_urls = "url"\n[[upstream]]\nname = "mine"\n'
        if dialect == "local":
            shutil.copy(lock, folder / "requirements.lock")
            config += f'kind = "local"\npath = "{folder}"\nmax_copies = 1\n'
        else:
            environment = asyncio.run(ensure_environment(lock, SHARED_ENVS, lambda line: None))
            (root / f"tmp-{name}").mkdir()
            server = CogServer(python_of(environment), free_port(), root / f"tmp-{name}", folder)
            cleanups.append(server.kill)
            server.wait_for("READY")
            config += f'kind = "cog"\nurls = ["http://127.0.0.1:{server.port}"]\n'
        running = running_proxy(root / f"data-{name}", config)
        proxy = running.__enter__()
        cleanups.append(lambda: running.__exit__(None, None, None))
        opened[name] = Journey(proxy, dialect)
        cleanups.append(opened[name].http.close)
        return opened[name]

    try:
        yield open_journey
    finally:
        for cleanup in reversed(cleanups):
            cleanup()


@pytest.fixture
def words(journeys: Callable[[str], Journey]) -> Journey:
    return journeys("words")


@pytest.fixture
def pictures(journeys: Callable[[str], Journey]) -> Journey:
    return journeys("pictures")


def test_logs_and_words_grow_while_the_run_goes_on(words: Journey) -> None:
    created = words.create(prompt="a red fox by a lake", pause=0.4, fails=False)
    *seen, ended = words.follow(created)
    assert (ended["status"], "".join(ended["output"])) == ("succeeded", "a red fox by a lake ")
    assert ended["logs"].endswith("word 5\nlast line\n")
    working = [each for each in seen if each["status"] == "processing"]
    assert len({each["logs"] for each in working}) >= 3
    lengths = [len(each["output"] or []) for each in working]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 3
    for each in working:
        assert ended["logs"].startswith(each["logs"])
        assert ended["output"][: len(each["output"] or [])] == (each["output"] or [])


def test_failed_run_keeps_its_logs_to_the_last_line(words: Journey) -> None:
    """coglet's answer has none, and its throttle holds back the lines of the last half second."""
    *_, ended = words.follow(words.create(prompt="one two three", pause=0.05, fails=True))
    assert ended["status"] == "failed"
    assert "lost for words" in ended["error"]
    assert ended["logs"].startswith("word 0\nword 1\nword 2\nlast line\n")
    again = words.http.get(f"/v1/predictions/{ended['id']}").json()
    assert again["logs"] == ended["logs"]


def test_cancelled_run_keeps_the_logs_that_were_seen(words: Journey) -> None:
    created = words.create(prompt=" ".join(["word"] * 60), pause=0.3, fails=False)
    for prediction in words.follow(created):
        if "word 2" in prediction["logs"]:
            break
    canceled = words.http.post(f"/v1/predictions/{created['id']}/cancel").json()
    assert canceled["status"] == "canceled"
    assert canceled["logs"].startswith("word 0\nword 1\nword 2\n")


def test_files_are_shown_under_addresses_of_the_proxy_or_not_yet(pictures: Journey) -> None:
    *seen, ended = pictures.follow(pictures.create(number=4, pause=0.6))
    assert ended["status"] == "succeeded"
    assert len(ended["output"]) == 4
    growing = [each["output"] for each in seen if each["output"]]
    for output in [*growing, ended["output"]]:
        assert all(address.startswith(f"{pictures.proxy.public_url}/outputs/") for address in output)
        assert ended["output"][: len(output)] == output
    if pictures.dialect != "fastapi":  # it tells of files by their paths in its container
        assert {len(output) for output in growing} & {1, 2, 3}
        assert httpx.get(growing[0][0], trust_env=False).content.startswith(b"P6 1 1 255")
    assert any("file 1" in each["logs"] for each in seen if each["status"] == "processing")


def test_forged_posts_are_told_nothing_and_change_nothing(words: Journey) -> None:
    created = words.create(prompt="true words only", pause=0.4, fails=False)
    forged = {"id": created["id"], "logs": "forged", "output": ["forged"] * 9, "status": "succeeded"}
    for token in ("guess", created["id"], "A" * 43):
        answer = httpx.post(f"{words.proxy.admin_url}{POSTS_PATH}{token}", json=forged, trust_env=False)
        assert answer.status_code == 404
        assert "progress" not in answer.text
    *seen, ended = words.follow(created)
    assert "forged" not in str([*seen, ended])
    assert ended["output"] == ["true ", "words ", "only "]
    public = httpx.post(f"{words.proxy.public_url}{POSTS_PATH}guess", json=forged, trust_env=False)
    assert public.status_code in (404, 405), "the public listener has no such route"


def test_no_address_of_a_post_is_logged(words: Journey) -> None:
    assert POSTS_PATH not in words.proxy.log_file.read_text(encoding="utf-8")
