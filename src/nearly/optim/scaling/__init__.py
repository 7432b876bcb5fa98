"""How hyperparameters scale: with width, depth, batch size and weight decay, and layers whose tensors all start at scale 1."""

from nearly.optim.scaling import unit
from nearly.optim.scaling.batch_size import amplified_gradient, rescaled_adam, rescaled_rmsprop
from nearly.optim.scaling.coordinate_check import CoordinateCheck, coordinate_check
from nearly.optim.scaling.depth import Residual
from nearly.optim.scaling.maximal_update import RULES, MaximalUpdate, attention_scale, maximal_update
from nearly.optim.scaling.telescope import Sweep, Telescope, telescope
from nearly.optim.scaling.trajectory import equivalent_pairs, trajectory_gap
from nearly.optim.scaling.unit_layers import UnitEmbedding, UnitLinear, UnitReadout, UnitResidual, unit_groups

__all__ = [
    "RULES",
    "CoordinateCheck",
    "MaximalUpdate",
    "Residual",
    "Sweep",
    "Telescope",
    "UnitEmbedding",
    "UnitLinear",
    "UnitReadout",
    "UnitResidual",
    "amplified_gradient",
    "attention_scale",
    "coordinate_check",
    "equivalent_pairs",
    "maximal_update",
    "rescaled_adam",
    "rescaled_rmsprop",
    "telescope",
    "trajectory_gap",
    "unit",
    "unit_groups",
]
