"""What can go wrong in a store.

::

    StorageError
    ├── StorageUnavailable   the medium failed: disk full, read-only, I/O error, index locked
    ├── StorageFull          the byte limit leaves no room; a kind of unavailability chosen by us
    ├── BlobRejected         the bytes offered are not what was promised (length, digest, cap)
    ├── Corrupt              what is on disk is not what was written; counted, never served
    └── StorageRefused       the folder cannot be used at all: newer format, another proxy owns it

A caller on the request path treats the first four as "miss" or "not stored" and counts them; only
``StorageRefused`` stops a start.
"""


class StorageError(Exception):
    """Any failure of a store."""


class StorageUnavailable(StorageError):
    """The medium failed in a way that may pass."""


class StorageFull(StorageUnavailable):
    """The configured byte limit (or the disk) leaves no room."""


class BlobRejected(StorageError):
    """The bytes offered were cut short, too long or not the promised ones; nothing was kept."""


class Corrupt(StorageError):
    """Something on disk is not what was written there."""


class StorageRefused(StorageError):
    """The folder cannot be used: a newer format, or another proxy holds it."""
