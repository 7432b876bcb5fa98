"""Its bound is true and useless."""

from __future__ import annotations

from torch import Tensor

from nearly.matrices.truncated_svd import TruncatedSVDModel
from nearly.testing.broken._honest import SingularValues

BREAKS = "certificate_sharp"
SAYS = "the bound is"

CARD = {
    "name": "VacuousBound",
    "nouns": ["matrix"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Bound",
    "rate": "that of the singular values",
    "cost": "two thin products",
    "parameters": {"rank": ["integer", 1, None]},
    "budget": {"parameter": "rank", "start": 2, "factor": 2, "most": 16},
    "skips": {},
}


class VacuousBoundModel(TruncatedSVDModel):
    """As the honest one, but for this."""

    theorem = "none: it is wrong on purpose"

    def bound(self, inputs: Tensor) -> Tensor:
        """The true bound, spoiled."""
        return 1000.0 * super().bound(inputs)


class VacuousBound(SingularValues):
    """Truncated singular values. Its bound is true and useless."""

    model = VacuousBoundModel
