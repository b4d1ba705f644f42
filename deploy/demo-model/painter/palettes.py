"""The palettes: each a complete set of colours for one kind of light.

``sky`` runs from overhead to the horizon, ``ground`` from far to near, ``ramp`` from dark to
bright for the scenes without a horizon. ``tags`` are the words that call for the palette.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .light import Array, colour, ramp


@dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``; the properties hold them as linear light."""

    name: str
    tags: tuple[str, ...]
    sky: tuple[str, ...]
    ground: tuple[str, str]
    light: str
    accent: str
    ramp: tuple[str, ...]
    is_night: bool = False

    @cached_property
    def sky_ramp(self) -> Array:
        return ramp(self.sky)

    @cached_property
    def full_ramp(self) -> Array:
        return ramp(self.ramp)

    @cached_property
    def ground_ramp(self) -> Array:
        """From the colour of the air at the horizon to the nearest ground."""
        return ramp((self.sky[-1], *self.ground))

    @cached_property
    def haze(self) -> Array:
        return colour(self.sky[-1])

    @cached_property
    def near(self) -> Array:
        return colour(self.ground[1])

    @cached_property
    def lamp(self) -> Array:
        return colour(self.light)

    @cached_property
    def spark(self) -> Array:
        return colour(self.accent)


def _palette(
    name: str,
    tags: str,
    sky: str,
    ground: str,
    light: str,
    accent: str,
    full: str,
    is_night: bool = False,
) -> Palette:
    far, near = ground.split()
    return Palette(
        name=name,
        tags=tuple(tags.split()),
        sky=tuple(sky.split()),
        ground=(far, near),
        light=light,
        accent=accent,
        ramp=tuple(full.split()),
        is_night=is_night,
    )


PALETTES: tuple[Palette, ...] = (
    _palette(
        "first light",
        "dawn sunrise morning pink rose pastel calm gentle soft dreamy romantic",
        "#31406f #7570ad #e5a3a9 #ffd9a8",
        "#a688ae #1f2443",
        "#ffe6bd",
        "#ff8f6b",
        "#141a33 #3d3f73 #8a6aa0 #e08d93 #ffc797 #fff1d6",
    ),
    _palette(
        "ember",
        "colorful rainbow sunset golden orange fire evening warm red epic dramatic lava",
        "#23274f #7d3b66 #e4634f #ffb65e",
        "#9a4a5e #1b1428",
        "#fff0b8",
        "#ff5d3a",
        "#170f26 #4b1d46 #a8324a #ec6a3f #ffb352 #fff2bf",
    ),
    _palette(
        "violet hour",
        "dusk twilight purple violet magic magical mystic fantasy lavender",
        "#15123a #43307a #9a58a6 #f59bab",
        "#714a86 #150f2b",
        "#ffd9d0",
        "#ff6f91",
        "#0f0c24 #33256a #6f3f98 #c55d9d #f7a1a5 #ffe6da",
    ),
    _palette(
        "moonlit",
        "night moon moonlit moonlight midnight dark blue indigo nocturnal navy",
        "#050a1e #0d2145 #1f466d #5d8ba6",
        "#2c5475 #060b15",
        "#e9f3ff",
        "#9fd3ff",
        "#040814 #0c2144 #1f4f7d #4f8fb5 #a5d0e0 #f2f8fb",
        is_night=True,
    ),
    _palette(
        "clear",
        "day noon sunny bright clear summer blue azure sky",
        "#2f78c4 #6fb0e0 #b9dff0 #f3f3e4",
        "#7fa3b4 #1f3a2f",
        "#fffbe6",
        "#ffcf5a",
        "#0f2b4c #1f5f99 #4fa0cf #a5d8e6 #f4efd2 #ffcf5a",
    ),
    _palette(
        "pearl",
        "mist fog misty foggy rain grey gray silver cloudy minimal serene haze hazy",
        "#7f97a6 #aabdc4 #d6dedb #f4efe4",
        "#9cb0b4 #22353a",
        "#fff8ea",
        "#d98c5f",
        "#18262c #45606a #849ba1 #bccac8 #e5e5dc #fffaf0",
    ),
    _palette(
        "slate",
        "storm stormy thunder tempest winter gloomy moody noir dark gray grey",
        "#1b2530 #3a4c5a #71858c #c3c7b9",
        "#55676e #10181d",
        "#fdf6dc",
        "#e0b35a",
        "#0b1116 #2a3a45 #556a74 #8f9f9f #cfcfbf #fdf6dc",
    ),
    _palette(
        "amber",
        "autumn fall amber brown copper rust leaf leaves vintage october golden fox",
        "#6f8fae #bcc6c2 #f2dab0 #fdebc8",
        "#c4905f #38190f",
        "#fff3d0",
        "#e2582b",
        "#22100b #64270f #b3501c #e58a33 #f6c46f #fdf0cf",
    ),
    _palette(
        "blossom",
        "spring blossom cherry sakura pink flower floral sweet cute pastel colorful",
        "#8db4e6 #c6cdf1 #f6d0e0 #fff0ec",
        "#c9a3c6 #35533f",
        "#fffaf2",
        "#ff6fa5",
        "#2c1f3d #7c4a80 #d5749f #f7a8bd #fcd9dc #fffaf2",
    ),
    _palette(
        "ice",
        "winter ice snow frozen arctic cold glacier white crystal frost snowy",
        "#4f86bd #97c0df #d3e7f1 #fdf5ec",
        "#9dbcd0 #1c3348",
        "#fffaf0",
        "#7fd4f0",
        "#0d2238 #265a86 #5d9dc4 #a7d3e6 #e2f2f6 #ffffff",
    ),
    _palette(
        "rust planet",
        "mars martian desert sand canyon alien red dune arid savanna sahara",
        "#6b3a30 #b3603f #e2a56d #f8dcab",
        "#c9764a #3a1510",
        "#fff1cf",
        "#ff7a3d",
        "#1d0b0a #5c1f17 #a8442a #dd8149 #f4bf83 #fff1cf",
    ),
    _palette(
        "boreal",
        "aurora northern polar green night arctic emerald",
        "#050a1f #08283c #0c4d52 #2b9079",
        "#14505a #03090f",
        "#c4ffe0",
        "#c86bff",
        "#03070f #083040 #0d6a62 #35b586 #a9f0bd #f3ffef",
        is_night=True,
    ),
    _palette(
        "neon",
        "colorful vibrant psychedelic neon cyberpunk cyber synthwave vaporwave tokyo futuristic retro electric magenta",
        "#0a0722 #2e0f5a #861d8c #ff5c93",
        "#49268f #0a0519",
        "#7df3ff",
        "#ff2e88",
        "#08051a #2b0f66 #7a1c9c #ee3a8c #ff9a6e #b8fbff",
        is_night=True,
    ),
    _palette(
        "canopy",
        "jungle forest green moss emerald nature lush leaf woods tropical rainforest",
        "#123a38 #2f6e5a #86bb7c #eeebae",
        "#4f8a5f #0a1d17",
        "#fbffd6",
        "#f2b84b",
        "#06140f #14402f #33774c #79b062 #c9d98a #fdfbd2",
    ),
    _palette(
        "old master",
        "portrait vintage victorian renaissance antique sepia baroque brown century",
        "#2b1d12 #5c4128 #9c7745 #d9b679",
        "#7d5a33 #170f09",
        "#ffe9bd",
        "#a83a2a",
        "#140c07 #3d2614 #75502a #ad8347 #dcbb7f #f8ead0",
    ),
    _palette(
        "gilded teal",
        "teal gold turquoise elegant luxury royal art deco marble peacock",
        "#04212e #0b4f5c #3f9c95 #f6d68c",
        "#2f7f80 #05171f",
        "#fff0bf",
        "#f0b540",
        "#03151d #073f4c #14787c #58b3a3 #e6d08c #fff4d2",
    ),
    _palette(
        "ink wash",
        "ink monochrome black white minimal charcoal sketch drawing calligraphy zen",
        "#8f9294 #b9bbba #dcdbd6 #f6f3ea",
        "#a2a4a3 #16181b",
        "#fffdf5",
        "#c8402f",
        "#0c0d0f #34373b #6c7074 #a5a8a8 #d8d6cf #fbf8ee",
    ),
    _palette(
        "lagoon",
        "colorful vibrant tropical beach island lagoon turquoise cyan summer coral reef underwater sea",
        "#1d86c6 #55bfdc #a9e6e2 #fff0cf",
        "#5fb3ad #0b3a43",
        "#fffbe3",
        "#ff7f5c",
        "#042b3d #0a6484 #22a6b3 #7bd9c8 #fdeebf #ff8f6b",
    ),
)
