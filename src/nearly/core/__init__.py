"""Target, surrogate, certificate, cost: the protocol, and what works on it. Knows no method."""
