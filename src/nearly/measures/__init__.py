"""Methods whose target is a `Measure`."""

from nearly.measures.kernel_thinning import KernelThinning
from nearly.measures.kmeans_coreset import KMeansCoreset
from nearly.measures.random_subsample import RandomSubsample

__all__ = ["KMeansCoreset", "KernelThinning", "RandomSubsample"]
