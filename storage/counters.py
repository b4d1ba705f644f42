"""What the store counts.

Plain integers that only grow. Each one is incremented by one thread alone (the event loop's for reads, the
writer's for writes), so that no lock is needed; whoever exports them just reads the attributes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class StorageCounters:
    """Counters of one open store, shared by its parts.

    Attributes:
        blob_writes_total: blobs written to the disk; bytes that were there already do not count.
        blob_write_bytes_total: bytes of those blobs.
        blob_duplicates_total: blobs offered whose bytes were there already.
        blob_reads_total: reads (whole, range or stream) that the disk answered.
        blob_memory_reads_total: reads that memory answered.
        blob_read_errors_total: reads that the medium failed (EIO, EACCES, EMFILE, ...); nothing was deleted.
        blob_missing_total: blobs the index knew and the disk did not have.
        blob_corrupt_total: blobs moved to quarantine because their bytes were not what their name says.
        record_writes_total: records written.
        record_read_errors_total: record rows that could not be read, or were not what was asked for.
        record_memory_hits_total: complete records answered from memory.
        incomplete_records_total: records found without all of their blobs, answered as a miss.
        value_writes_total: ledger and note values written.
        value_read_errors_total: ledger and note rows that could not be read.
        write_failures_total: writes that failed because the medium failed or had no room.
        index_reset_total: damaged indexes set aside at open.
        temp_swept_total: left-over temporary files removed at open.
    """

    blob_writes_total: int = 0
    blob_write_bytes_total: int = 0
    blob_duplicates_total: int = 0
    blob_reads_total: int = 0
    blob_memory_reads_total: int = 0
    blob_read_errors_total: int = 0
    blob_missing_total: int = 0
    blob_corrupt_total: int = 0
    record_writes_total: int = 0
    record_read_errors_total: int = 0
    record_memory_hits_total: int = 0
    incomplete_records_total: int = 0
    value_writes_total: int = 0
    value_read_errors_total: int = 0
    write_failures_total: int = 0
    index_reset_total: int = 0
    temp_swept_total: int = 0

    def snapshot(self) -> dict[str, int]:
        """Every counter by its name, as it stands now."""
        return asdict(self)
