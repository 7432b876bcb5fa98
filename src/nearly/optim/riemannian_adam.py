"""Adam, AMSGrad and Adagrad for points of Riemannian manifolds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.linalg.manifolds import Manifold
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "RiemannianAdam",
    "kind": "manifold",
    "rows": [244],
    "replaces": "Riemannian gradient descent with a tuned rate",
    "cost": "an exponential, a transport and some ten elementwise passes",
    "needs": [],
    "state": {"matrix": {"mn": 4, "m": 8}, "vector": {"n": 12}},
    "sharded": False,
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "rule": ["choice", "adam", "amsgrad", "adagrad"],
        "flat": ["choice", True, False],
        "manifold": ["choice", None],
    },
    "settings": {"lr": 0.1},
    "skips": {},
}
