"""Methods whose target is a `Measure`."""

from nearly.measures.random_subsample import RandomSubsample

__all__ = ["RandomSubsample"]
