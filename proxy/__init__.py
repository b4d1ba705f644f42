"""Hotplate: an edge image caching proxy for model APIs."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hotplate")
except PackageNotFoundError:  # run from a tree that was never installed
    __version__ = "0+unknown"
