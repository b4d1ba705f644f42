"""From the words of a prompt to a plan of the picture.

`read_prompt` chooses the scene, the palette, the figures and a few features. Words that are known
decide; where they say nothing, a digest of the whole prompt and the seed does, so that any text in
any language gives a picture of its own, the same one every time. The words of the negative prompt
take their scenes, palettes, figures and features off the table.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

import numpy as np

from .palettes import PALETTES, Palette


def _index(entries: dict[str, str]) -> dict[str, tuple[str, ...]]:
    index: dict[str, tuple[str, ...]] = {}
    for name, words in entries.items():
        for word in dict.fromkeys(map(_singular, words.split())):
            index[word] = (*index.get(word, ()), name)
    return index


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


SCENE_WORDS: Final = _index(
    {
        "peaks": "mountain alp peak hill valley landscape cliff himalaya summit lake fjord volcano "
        "glacier snow aurora highland ridge matterhorn wilderness scenery",
        "ocean": "ocean sea wave beach coast shore harbor harbour island surf water "
        "dolphin pirate lagoon bay tide yacht mermaid fish underwater",
        "dunes": "desert dune sand sahara camel mars martian oasis canyon egypt pyramid moonscape arid savanna cactus",
        "cosmos": "nebula galaxy space star cosmos cosmic universe planet interstellar milky "
        "supernova celestial astronomy comet orbit saturn spaceship quasar",
        "city": "city skyline skyscraper downtown street tokyo york urban building cyberpunk "
        "metropolis town manhattan london paris hong kong architecture rooftop neon synthwave car",
        "forest": "forest wood tree jungle pine woodland grove rainforest fairy elf path trail redwood swamp mushroom",
        "marble": "abstract marble ink fluid paint swirl pattern texture liquid smoke silk agate "
        "wallpaper background psychedelic flow acrylic geode art expressionism fractal",
        "bloom": "flower bloom rose garden bouquet peony dahlia floral blossom petal tulip lotus "
        "sakura botanical bee butterfly orchid poppy",
        "glass": "stained glass mosaic cell bubble crystal voronoi coral tile gem jewel geometric "
        "kaleidoscope microscopic bacteria polygon",
        "meadow": "meadow field grass prairie farm countryside sheep cow picnic wheat "
        "lavender windmill village pasture",
        "studio": "portrait bust headshot gentleman suit tuxedo wearing lady king queen painting "
        "century victorian renaissance face closeup selfie character",
    }
)
FIGURE_WORDS: Final = _index(
    {
        "astronaut": "astronaut cosmonaut spaceman spacewalk",
        "horse": "horse stallion mare pony equestrian knight cowboy",
        "fox": "fox vixen",
        "raccoon": "raccoon racoon",
        "cat": "cat kitten kitty tabby",
        "bear": "bear grizzly teddy",
        "owl": "owl",
        "wolf": "wolf husky",
        "panda": "panda",
        "rabbit": "rabbit bunny hare",
        "deer": "deer stag elk antler reindeer",
        "sailboat": "sail boat ship sailboat yacht pirate regatta",
        "lighthouse": "lighthouse beacon",
        "balloon": "balloon airship",
        "cabin": "cabin cottage house hut barn home",
        "whale": "whale humpback orca",
        "wanderer": "man woman person people girl boy hiker traveler wanderer monk pilgrim human "
        "king queen lady prince princess warrior samurai explorer detective wizard child",
        "birds": "bird gull seagull crow raven swallow flock geese",
    }
)
FEATURE_WORDS: Final = _index(
    {
        "clouds": "cloud cloudy overcast cumulus storm stormy",
        "mist": "mist fog misty foggy haze hazy steam smoke moody",
        "stars": "star starry stars milky constellation night midnight space astronaut cosmos",
        "aurora": "aurora northern borealis polar",
        "lake": "lake reflection mirror water river pond fjord",
        "snow": "snow snowy winter alp ice glacier himalaya frozen christmas",
        "moon": "moon moonlight moonlit",
        "planet": "planet saturn alien ringed moonscape astronaut",
        "rings": "saturn ring ringed",
        "spiral": "galaxy spiral milky andromeda",
        "suit": "suit gentleman tuxedo wearing tie lord mr businessman dapper elegant",
        "hat": "hat gentleman lord detective wizard victorian",
        "riding": "riding rider ride rides cowboy knight equestrian",
        "rays": "ray sunbeam light heavenly divine magical enchanted",
        "vivid": "vivid vibrant colorful colourful saturated hdr psychedelic rainbow",
        "soft": "soft blurry dreamy bokeh ethereal gentle",
        "grain": "film analog grain vintage 35mm kodak noise noisy",
        "frame": "century victorian renaissance baroque antique framed",
    }
)
PALETTE_WORDS: Final = _index({palette.name: " ".join(palette.tags) for palette in PALETTES})
BY_NAME: Final = {palette.name: palette for palette in PALETTES}
# Where a figure feels at home when no word names a place.
HOMES: Final = {
    "astronaut": "dunes",
    "horse": "meadow",
    "fox": "forest",
    "raccoon": "studio",
    "cat": "studio",
    "bear": "forest",
    "owl": "forest",
    "wolf": "peaks",
    "panda": "studio",
    "rabbit": "meadow",
    "deer": "forest",
    "sailboat": "ocean",
    "lighthouse": "ocean",
    "balloon": "peaks",
    "cabin": "meadow",
    "whale": "ocean",
    "birds": "ocean",
    "wanderer": "peaks",
}
# Palettes that flatter a scene when no word names a light; the first words of each tuple are used
# as often as the last.
FLATTERS: Final = {
    "peaks": ("first light", "ember", "violet hour", "pearl", "clear", "amber", "ice"),
    "ocean": ("ember", "lagoon", "first light", "violet hour", "slate", "clear"),
    "dunes": ("rust planet", "ember", "first light", "amber", "violet hour"),
    "cosmos": ("violet hour", "moonlit", "boreal", "neon", "ember", "gilded teal"),
    "city": ("violet hour", "neon", "ember", "moonlit", "first light"),
    "forest": ("canopy", "amber", "pearl", "first light", "moonlit"),
    "marble": ("gilded teal", "ember", "violet hour", "lagoon", "ink wash", "blossom", "neon"),
    "bloom": ("blossom", "first light", "amber", "violet hour", "lagoon"),
    "glass": ("gilded teal", "neon", "lagoon", "ember", "violet hour", "canopy"),
    "meadow": ("clear", "first light", "ember", "blossom", "amber"),
    "studio": ("old master", "gilded teal", "canopy"),
}
HOUR_WORDS: Final = frozenset(
    {"night", "midnight", "moonlit", "moonlight", "aurora", "northern", "dawn", "sunrise", "morning", "noon"}
    | {"sunset", "dusk", "twilight"}
)
# Figures that need the sea around them.
SEAFARERS: Final = ("whale", "sailboat", "lighthouse")
ANY_SCENE: Final = ("peaks", "ocean", "dunes", "cosmos", "forest", "marble", "bloom", "glass")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be painted: everything the words and the seed decide.

    ``composition`` seeds where things stand; ``texture`` seeds the fine grain of clouds, rock and
    water and also depends on the negative prompt, so that any change of it is seen.
    """

    scene: str
    palette: Palette
    figures: tuple[str, ...]
    features: frozenset[str]
    words: frozenset[str]
    avoided: frozenset[str]
    composition: int
    texture: int

    def has(self, feature: str) -> bool:
        """Whether a word of the prompt asked for the feature."""
        return feature in self.features


def tokens(text: str) -> tuple[str, ...]:
    """The words of a text in order, folded to lower case and to the singular."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_singular(word) for word in re.findall(r"\w+", folded))


def read_prompt(prompt: str, negative_prompt: str, seed: int) -> Plan:
    """Plan the picture for a prompt.

    Args:
        prompt: what is to be seen; any text, also none.
        negative_prompt: what is not to be seen; may be empty.
        seed: any integer.

    Returns:
        The same plan for the same arguments, on every run.
    """
    wanted = tokens(prompt)
    unwanted = frozenset(tokens(negative_prompt)) - {"and", "a", "the", "of", "no"}
    composition = digest("composition", prompt, seed)
    rng = np.random.Generator(np.random.PCG64(composition))

    features = _named(FEATURE_WORDS, wanted) - _named(FEATURE_WORDS, tuple(sorted(unwanted)))
    unwanted_figures = _named(FIGURE_WORDS, tuple(sorted(unwanted)))
    figures = tuple(
        name for name in _in_order(FIGURE_WORDS, wanted) if name not in unwanted_figures and "animal" not in unwanted
    )[:2]
    scene = _choose_scene(wanted, unwanted, figures, rng)
    return Plan(
        scene=scene,
        palette=_choose_palette(scene, wanted, unwanted, rng),
        figures=figures,
        features=frozenset(features),
        words=frozenset(wanted) - unwanted,
        avoided=unwanted,
        composition=composition,
        texture=digest("texture", f"{prompt}\0{' '.join(sorted(unwanted))}", seed),
    )


def digest(purpose: str, text: str, seed: int) -> int:
    """A number of 128 bits for a text and a seed, the same on every run and machine."""
    body = f"{purpose}\0{seed}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(body, digest_size=16).digest(), "big")


def _in_order(index: dict[str, tuple[str, ...]], words: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for word in words:
        found.extend(name for name in index.get(word, ()) if name not in found)
    return found


def _named(index: dict[str, tuple[str, ...]], words: tuple[str, ...]) -> set[str]:
    return set(_in_order(index, words))


def _choose_scene(
    wanted: tuple[str, ...],
    unwanted: frozenset[str],
    figures: tuple[str, ...],
    rng: np.random.Generator,
) -> str:
    scores: dict[str, float] = {}
    for place, word in enumerate(wanted):
        for scene in SCENE_WORDS.get(word, ()):
            # An early word weighs a little more: the subject tends to come first.
            scores[scene] = scores.get(scene, 0.0) + 1.0 - 0.01 * min(place, 50)
    for place, figure in enumerate(figures):
        # The first figure's home counts; a second one comes to visit.
        scores[HOMES[figure]] = scores.get(HOMES[figure], 0.0) + (0.6, 0.2)[place]
    if figures and max(scores, key=lambda name: scores[name]) in ("marble", "glass", "bloom"):
        scores[HOMES[figures[0]]] += 2.0
    banned = _named(SCENE_WORDS, tuple(sorted(unwanted)))
    if any(figure in SEAFARERS for figure in figures) and "ocean" not in banned:
        return "ocean"
    allowed = {scene: score for scene, score in scores.items() if scene not in banned}
    if allowed:
        return max(allowed, key=lambda name: allowed[name])
    choices = [scene for scene in ANY_SCENE if scene not in banned] or list(ANY_SCENE)
    return choices[int(rng.integers(len(choices)))]


def _choose_palette(scene: str, wanted: tuple[str, ...], unwanted: frozenset[str], rng: np.random.Generator) -> Palette:
    scores: dict[str, float] = {}
    for word in wanted:
        # The hour decides; a word for a colour says more than one that also names a place.
        weight = 1.8 if word in HOUR_WORDS else 0.6 if word in SCENE_WORDS else 1.0
        for name in PALETTE_WORDS.get(word, ()):
            scores[name] = scores.get(name, 0.0) + weight
    flatters = FLATTERS[scene]
    for name in scores:
        scores[name] += 0.4 if name in flatters else 0.0
    banned = _named(PALETTE_WORDS, tuple(sorted(unwanted)))
    allowed = {name: score for name, score in scores.items() if name not in banned}
    draw = int(rng.integers(1 << 30))
    if allowed:
        best = max(allowed.values())
        names = [name for name, score in allowed.items() if score >= best - 0.01]
    else:
        names = [name for name in flatters if name not in banned] or list(flatters)
    return BY_NAME[names[draw % len(names)]]
