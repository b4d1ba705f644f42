"""The demo model, drawn without Cog: `painter` is loaded by its path, `predict` with a stand-in for Cog."""

import ast
import importlib.util
import io
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

MODEL_DIR = Path(__file__).parents[2] / "deploy" / "demo-model"
SCHEMA = json.loads((MODEL_DIR / ".cog" / "openapi_schema.json").read_text())
# Where checks are made for everyone, a missing library is a failure; elsewhere these tests step aside.
HAS_LIBRARIES = all(importlib.util.find_spec(name) for name in ("numpy", "PIL"))
draws = pytest.mark.skipif(
    not HAS_LIBRARIES and "CI" not in os.environ, reason="numpy and pillow are not installed: nothing can be drawn"
)
# What client libraries look for in logs to show progress.
PROGRESS = re.compile(r"^\s*(?P<percentage>\d+)%\s*\|.+?\|\s*(?P<current>\d+)/(?P<total>\d+)$", re.M)
SCENES = {
    "mountains at dawn": "peaks",
    "a lighthouse by the sea": "ocean",
    "sand dunes in the desert": "dunes",
    "a nebula": "cosmos",
    "city skyline": "city",
    "a misty forest": "forest",
    "abstract marble": "marble",
    "a bouquet of roses": "bloom",
    "stained glass": "glass",
    "a field in spring": "meadow",
    "portrait of a raccoon gentleman": "studio",
}


def load(name: str, path: Path) -> ModuleType:
    search = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    return load("demo_model_painter", MODEL_DIR / "painter" / "__init__.py")


@pytest.fixture(scope="module")
def painter(drawing: ModuleType):
    return drawing.Painter()


@pytest.fixture
def paint(drawing: ModuleType, painter):
    def paint(prompt: str, seed: int = 1, **fields):
        sized = {"width": 48, "height": 40, "steps": 1} | fields
        return painter.paint(drawing.Request(prompt=prompt, seed=seed, **sized))

    return paint


@draws
@pytest.mark.parametrize(("prompt", "scene"), SCENES.items())
def test_words_choose_the_scene_and_the_same_request_gives_the_same_pixels(paint, prompt: str, scene: str):
    first, again = paint(prompt), paint(prompt)
    assert first.plan.scene == scene
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.pixels.std() > 8, "a picture is not one flat colour"


@draws
def test_a_fresh_painter_gives_the_same_pixels(drawing: ModuleType, paint):
    request = drawing.Request(prompt="a red fox", seed=3, width=48, height=40, steps=1)
    assert drawing.Painter().paint(request).pixels.tobytes() == paint("a red fox", 3).pixels.tobytes()


@draws
@pytest.mark.parametrize("prompt", ["a red fox", "", "山の夜明け", "\ud800", "a" * 5000])
def test_another_seed_gives_another_picture_whatever_the_prompt(paint, prompt: str):
    assert paint(prompt, 1).pixels.tobytes() != paint(prompt, 2).pixels.tobytes()


@draws
def test_any_change_of_the_prompt_changes_the_picture(paint):
    assert paint("a red fox").pixels.tobytes() != paint("a red  fox").pixels.tobytes()


@draws
@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 200), (200, 16), (33, 57)])
@pytest.mark.parametrize("prompt", ["an astronaut riding a horse", "ocean at night", "raccoon gentleman, 19th century"])
def test_every_size_can_be_painted(paint, prompt: str, width: int, height: int):
    assert paint(prompt, width=width, height=height).pixels.shape == (height, width, 3)


@draws
def test_negative_prompt_takes_scenes_figures_and_palettes_away(paint):
    plain = paint("a fox in the mountains at night")
    assert (plain.plan.scene, plain.plan.figures) == ("peaks", ("fox",))
    without = paint("a fox in the mountains at night", negative_prompt="foxes, mountain, dark")
    assert without.plan.scene != "peaks"
    assert without.plan.figures == ()
    assert "dark" not in without.plan.palette.tags


@draws
def test_any_negative_prompt_changes_the_picture(paint):
    plain, changed = paint("mountains"), paint("mountains", negative_prompt="blurry, low quality")
    assert plain.plan.scene == changed.plan.scene
    assert plain.pixels.tobytes() != changed.pixels.tobytes()


@draws
def test_work_grows_with_steps_and_with_pixels(paint):
    one, eight = paint("nebula"), paint("nebula", steps=8)
    assert eight.lookups == 8 * one.lookups
    assert eight.pixels.tobytes() != one.pixels.tobytes()
    assert paint("nebula", width=96, height=80).lookups == 4 * one.lookups


@draws
def test_steps_are_reported_as_they_are_done(drawing: ModuleType, painter):
    seen = []
    request = drawing.Request(prompt="x", seed=1, width=16, height=16, steps=3)
    painter.paint(request, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@draws
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_image_is_kept_at_strength_0_and_gone_at_1(paint, mode: str):
    from PIL import Image

    red = Image.new("RGB", (30, 50), (200, 40, 40)).convert(mode)
    kept = paint("ocean", image=red, prompt_strength=0.0).pixels
    half = paint("ocean", image=red, prompt_strength=0.5).pixels
    gone = paint("ocean", image=red, prompt_strength=1.0).pixels
    if mode != "L":
        assert kept[..., 0].mean() > 2.5 * kept[..., 2].mean()
    assert half.tobytes() not in (kept.tobytes(), gone.tobytes())
    assert abs(gone.astype(int) - paint("ocean").pixels).mean() < 1.0


@draws
@pytest.mark.parametrize(("file_format", "opened_as"), [("webp", "WEBP"), ("png", "PNG"), ("jpg", "JPEG")])
@pytest.mark.parametrize("quality", [0, 80, 100])
def test_files_open_in_their_format_with_the_right_size(
    drawing: ModuleType, paint, file_format: str, opened_as: str, quality: int
):
    from PIL import Image

    pixels = paint("a bouquet of flowers", width=50, height=30).pixels
    data = drawing.encode(pixels, file_format, quality)
    assert data == drawing.encode(pixels, file_format, quality)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        assert (picture.format, picture.size) == (opened_as, (50, 30))


# The predictor, with a stand-in for Cog.


@pytest.fixture
def predictor(drawing: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    metrics: dict[str, int] = {}
    scope = SimpleNamespace(record_metric=metrics.__setitem__)
    cog = SimpleNamespace(
        BasePredictor=object, Input=lambda **about: about.get("default"), Path=Path, current_scope=lambda: scope
    )
    monkeypatch.setitem(sys.modules, "cog", cog)
    monkeypatch.setitem(sys.modules, "painter", drawing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    module = load("demo_model_predict", MODEL_DIR / "predict.py")
    predictor = module.Predictor()
    predictor.module, predictor.metrics, predictor.temp_dir = module, metrics, tmp_path
    return predictor


SMALL = {"prompt": "a red fox", "width": 20, "height": 16, "num_inference_steps": 2}


@draws
def test_prediction_names_its_files_and_logs_seed_and_progress(predictor, capsys: pytest.CaptureFixture[str]):
    predictor.setup()
    paths = predictor.predict(**SMALL, seed=7, num_outputs=2, output_format="png")
    assert [path.name for path in paths] == ["out-0.png", "out-1.png"]
    logs = capsys.readouterr().out
    assert "Using seed: 7\n" in logs
    assert [match["current"] for match in PROGRESS.finditer(logs)] == ["1", "2", "3", "4"]
    assert predictor.metrics == {"image_count": 2}


@draws
def test_second_output_is_the_picture_of_the_next_seed(predictor):
    predictor.setup()
    _, second = (path.read_bytes() for path in predictor.predict(**SMALL, seed=7, num_outputs=2))
    (alone,) = (path.read_bytes() for path in predictor.predict(**SMALL, seed=8))
    assert second == alone


@draws
def test_seed_in_the_logs_gives_the_random_picture_again(predictor, capsys: pytest.CaptureFixture[str]):
    predictor.setup()
    (drawn,) = (path.read_bytes() for path in predictor.predict(**SMALL))
    seed = int(re.search(r"Using seed: (\d+)", capsys.readouterr().out)[1])
    (again,) = (path.read_bytes() for path in predictor.predict(**SMALL, seed=seed))
    assert drawn == again


@draws
def test_files_of_the_prediction_before_and_of_ended_servers_are_removed(predictor):
    # A process number that no process has.
    leftover = predictor.temp_dir / f"hotplate-demo-{2**22 + 1}-x"
    leftover.mkdir()
    predictor.setup()
    assert not leftover.exists()
    (first,) = predictor.predict(**SMALL)
    (second,) = predictor.predict(**SMALL)
    assert not first.exists()
    assert second.exists()
    assert len(list(predictor.temp_dir.iterdir())) == 1


@draws
def test_an_image_that_is_no_picture_is_a_clear_error(predictor, tmp_path: Path):
    predictor.setup()
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ValueError, match="not a picture"):
        predictor.predict(**SMALL, image=path)


@draws
def test_fault_prompts_are_drawn_when_no_faults_are_asked_for(predictor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HOTPLATE_DEMO_FAULTS", raising=False)
    predictor.setup()
    for prompt in ("fault:raise", "fault:crash", "fault:hang", "fault:slow:9"):
        assert predictor.predict(**SMALL | {"prompt": prompt})


@draws
def test_fault_prompts_misbehave_when_asked_to(predictor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOTPLATE_DEMO_FAULTS", "1")
    predictor.setup()
    slept: list[float] = []
    monkeypatch.setattr(predictor.module, "_sleep", slept.append)
    with pytest.raises(ValueError, match="the model failed on purpose"):
        predictor.predict(**SMALL | {"prompt": "fault:raise"})
    predictor.predict(**SMALL | {"prompt": "fault:slow:1.5"})
    predictor.predict(**SMALL | {"prompt": "fault:hang"})
    assert slept == [1.5, 600.0]

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(predictor.module.os, "_exit", leave)
    with pytest.raises(SystemExit, match="13"):
        predictor.predict(**SMALL | {"prompt": "fault:crash"})


@draws
def test_setup_fails_when_asked_to(predictor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOTPLATE_DEMO_FAULTS", "setup")
    with pytest.raises(RuntimeError, match="on purpose"):
        predictor.setup()


# The schema and the lock, which need no library.


def declared_inputs() -> dict[str, dict[str, object]]:
    """The inputs of ``predict`` as written in the source: annotation and arguments of ``Input``."""
    tree = ast.parse((MODEL_DIR / "predict.py").read_text())
    predict = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "predict")
    names = predict.args.args[1:]
    assert len(names) == len(predict.args.defaults), "every input is declared with Input()"
    inputs = {}
    for name, call in zip(names, predict.args.defaults, strict=True):
        assert isinstance(call, ast.Call)
        about = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        inputs[name.arg] = about | {"annotation": ast.unparse(name.annotation)}
    return inputs


def listed_inputs() -> dict[str, dict[str, object]]:
    """The same, read from the schema file."""
    schemas = SCHEMA["components"]["schemas"]
    types = {"string": "str", "integer": "int", "number": "float"}
    inputs = {}
    for name, listed in sorted(schemas["Input"]["properties"].items(), key=lambda item: item[1]["x-order"]):
        about = {"description": listed["description"]}
        merged = dict(listed)
        for reference in listed.get("allOf", ()):
            merged |= schemas[reference["$ref"].rpartition("/")[2]]
            about["choices"] = merged["enum"]
        kind = "Path" if listed.get("format") == "uri" else types[merged["type"]]
        about["annotation"] = f"{kind} | None" if listed.get("nullable") else kind
        if name not in schemas["Input"].get("required", ()):
            about["default"] = listed.get("default")
        about |= {ours: listed[theirs] for ours, theirs in (("ge", "minimum"), ("le", "maximum")) if theirs in listed}
        inputs[name] = about
    return inputs


def test_schema_lists_exactly_the_inputs_of_predict():
    declared, listed = declared_inputs(), listed_inputs()
    assert list(declared) == list(listed)
    assert declared == listed


def test_output_is_a_list_of_files():
    output = SCHEMA["components"]["schemas"]["Output"]
    assert (output["type"], output["items"]) == ("array", {"type": "string", "format": "uri"})


def test_lock_pins_what_is_required_with_hashes_and_names_no_host():
    lock = (MODEL_DIR / "requirements.lock").read_text()
    required = [line for line in (MODEL_DIR / "requirements.in").read_text().splitlines() if line[:1].isalpha()]
    pinned = re.findall(r"^([a-z0-9-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.M)
    assert len(pinned) == len(re.findall(r"^\S", lock, re.M)), "every line that pins has a hash"
    for requirement in required:
        name, _, version = requirement.partition("==")
        assert name in dict(pinned)
        assert version in ("", dict(pinned)[name])
    assert "://" not in lock
    assert "index-url" not in lock
