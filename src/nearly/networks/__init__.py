"""Methods whose target is a `Network`."""

from nearly.networks.fisher_weighted_layers import FisherWeightedLayers
from nearly.networks.kronecker_weighted_layers import KroneckerWeightedLayers
from nearly.networks.truncated_layers import TruncatedLayers
from nearly.networks.whitened_layers import WhitenedLayers

__all__ = ["FisherWeightedLayers", "KroneckerWeightedLayers", "TruncatedLayers", "WhitenedLayers"]
