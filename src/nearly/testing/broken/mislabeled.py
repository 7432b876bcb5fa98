"""Its card claims a bound, and there is no theorem."""

from __future__ import annotations

from nearly.testing.broken._honest import Polynomials

BREAKS = "certificate_kind"
SAYS = "claims a Bound, the certificate is a Probable"

CARD = {
    "name": "Mislabeled",
    "nouns": ["function"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Bound",
    "rate": "that of polynomials",
    "cost": "one product per term",
    "parameters": {"samples": ["integer", 8, None]},
    "budget": {"parameter": "samples", "start": 16, "factor": 2, "most": 128},
    "skips": {},
}


class Mislabeled(Polynomials):
    """Polynomials. Its card claims a bound, and there is no theorem."""
