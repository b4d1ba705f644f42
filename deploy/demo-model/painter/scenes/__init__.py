"""The scenes, by the names that `words` uses."""

from __future__ import annotations

from collections.abc import Callable

from ..setting import Scene, Setting
from .bloom import Bloom
from .city import City
from .cosmos import Cosmos
from .dunes import Dunes
from .forest import Forest
from .glass import Glass
from .marble import Marble
from .meadow import Meadow
from .ocean import Ocean
from .peaks import Peaks
from .studio import Studio

SCENES: dict[str, Callable[[Setting], Scene]] = {
    "bloom": Bloom,
    "city": City,
    "cosmos": Cosmos,
    "dunes": Dunes,
    "forest": Forest,
    "glass": Glass,
    "marble": Marble,
    "meadow": Meadow,
    "ocean": Ocean,
    "peaks": Peaks,
    "studio": Studio,
}
