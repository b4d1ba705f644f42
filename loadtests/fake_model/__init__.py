"""A double of Replicate's HTTP API: a real server on loopback, for tests and load tests.

``python -m loadtests.fake_model`` prints one JSON line with its ports and serves until it is stopped. It keeps to the
whole contract that real clients rely on: accounts, the three create routes with ``Prefer`` and ``Cancel-After``,
predictions in pages, streams, uploaded files, signed webhooks, models and versions, deployments, trainings,
collections, search. Output files come from a second listener and streams from a third, as with the real service; their
addresses expire. Given a certificate, the same world has a second site over TLS.

Its models (``catalog``) draw tiny pictures or write words, deterministic for a given seed; without one each run makes
another output, as the real ones do.

A test steers it (``control``): faults come on demand, runs can be held, options changed, outputs expired, models
released anew, and everything is counted. By itself it calls nobody beyond this machine. Not part of the wheel.
"""
