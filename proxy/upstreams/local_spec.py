"""What the operator says of a local model, and what is told of its copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CopyPhase = Literal["installing", "downloading", "starting", "ready", "failed", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class LocalCogSpec:
    """What the operator says of the model.

    Attributes:
        model_dir: its folder, with ``cog.yaml``.
        boot_deadline_s: seconds in which a started copy must be ready.
        deadline_s: seconds after which a run is given up.
        revision: goes into the version, beside the folder's files.
        simulated_download_s: waited before each start, and told apart from the boot.
        environment: further variables for the model.
        version: 64 hex digits that the version shall be, instead of a hash.
        python: an interpreter that has Cog and the model's packages, instead of an environment of its own.
        tells_progress: whether copies are asked to tell how runs go.
    """

    name: str
    model_dir: Path
    max_copies: int = 2
    idle_timeout_s: float = 300.0
    boot_deadline_s: float = 300.0
    deadline_s: float = 600.0
    queue_limit: int = 1000
    revision: str = ""
    simulated_download_s: float = 0.0
    environment: tuple[tuple[str, str], ...] = ()
    version: str | None = None
    python: Path | None = None
    tells_progress: bool = True


@dataclass(frozen=True, slots=True)
class CopyEvent:
    """News of a copy, for whoever shows progress.

    Attributes:
        at: epoch seconds.
        copy: its id; ``""`` for the making of the environment when no copy is being started.
        detail: a line of text, or ``""``.
    """

    at: float
    copy: str
    phase: CopyPhase
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CopyState:
    """A copy as it is now.

    Attributes:
        port, pid: 0 until it has a process; ``pid`` leads the process group and session of everything in it.
        state: its phase, or ``"busy"`` while a ready one works.
    """

    id: str
    port: int
    pid: int
    state: str
