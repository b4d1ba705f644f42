"""How the store is set up. Part of the proxy's settings tree; the store itself reads no environment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field


class StorageSettings(BaseModel):
    """Settings of the store in ``data_dir``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: ByteSize = Field(
        default=ByteSize(20 * 1024**3),
        description="Most bytes that blobs may take on disk, counted in whole 4 kB blocks. When they are used up, "
        "new results are handed to clients but not kept.",
    )
    memory_bytes: ByteSize = Field(
        default=ByteSize(64 * 1024**2),
        description="Most bytes of hot results and small blobs kept in memory by each process.",
    )
    durability: Literal["safe", "fast"] = Field(
        default="safe",
        description="`safe` syncs every blob and record to the disk before a client hears of it; `fast` leaves that "
        "to the operating system, so that a power cut may lose the newest results (never serve wrong ones).",
    )
