"""Its bound is half of what the theorem gives."""

from __future__ import annotations

from torch import Tensor

from nearly.matrices.truncated_svd import TruncatedSVDModel
from nearly.testing.broken._honest import SingularValues

BREAKS = "certificate_holds"
SAYS = "the bound lies below the true error"

CARD = {
    "name": "FalseBound",
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


class FalseBoundModel(TruncatedSVDModel):
    """As the honest one, but for this."""

    theorem = "none: it is wrong on purpose"

    def bound(self, inputs: Tensor) -> Tensor:
        """The true bound, spoiled."""
        return 0.5 * super().bound(inputs)


class FalseBound(SingularValues):
    """Truncated singular values. Its bound is half of what the theorem gives."""

    model = FalseBoundModel
