"""The figures a prompt can name, and how they are set into a scene."""

from .placing import place_figures

__all__ = ["place_figures"]
