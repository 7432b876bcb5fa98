"""Optimizers as short recipes over shared transforms, each a drop-in for those of `torch.optim`."""

from nearly.optim.adamw import AdamW
from nearly.optim.muon import Muon
from nearly.optim.optimizer import Optimizer, Options

__all__ = ["AdamW", "Muon", "Optimizer", "Options"]
