"""A double of Replicate's HTTP API: a real server on loopback, for tests and load tests.

``python -m loadtests.fake_model`` prints one JSON line with its ports and serves until it is stopped. It keeps to the
contract that real clients rely on: accounts, the three create routes with ``Prefer: wait``, predictions, models and
versions, and output files on a second listener whose addresses expire. Its models draw tiny pictures, deterministic for
a given seed; without one each run draws another, as the real ones do.

A test steers it: faults come on demand (``POST /_fault``), runs can be held (``POST /_gate``), everything is counted
(``GET /_counters``). Streams, file uploads and webhooks are not here. Not part of the wheel.
"""
