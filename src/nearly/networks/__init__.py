"""Methods whose target is a `Network`."""

from nearly.networks.truncated_layers import TruncatedLayers

__all__ = ["TruncatedLayers"]
