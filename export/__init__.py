"""Pressed model -> bundle: graph, portable op bodies, weights at their place."""

from edgepress.export.writer import export

__all__ = ["export"]
