"""A series cut into windows: what was seen, and what came next; later windows certify, and overlap nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nearly.core.errors import BadInput, TooFewSamples
from nearly.core.validate import require_int

CERTIFYING_SHARE = 3  # one row in so many certifies
MOST_CERTIFYING = 1000
LEAST_FITTING = 8
# More neighboring windows hardly tell more, and no kernel method takes as many.
MOST_FITTING = 4096


@dataclass(frozen=True)
class Windows:
    """Pairs of a history and what followed.

    Attributes:
        fitting: histories (n, window, columns) and futures (n, horizon, columns), at most 4,096; neighbors overlap.
        certifying: the same, all later than those that fit; none overlaps another of either kind.
        left_out: fitting windows left out as a value in them is missing.
    """

    fitting: tuple[np.ndarray, np.ndarray]
    certifying: tuple[np.ndarray, np.ndarray]
    left_out: int


def cut_windows(
    inputs: np.ndarray, outputs: np.ndarray, *, window: int, horizon: int, certify: int | None = None
) -> Windows:
    """Cut rows in the order of time into windows, the last third of them for those that certify.

    Certifying windows lie side by side from the end on, so that errors on them share no row. They may be dependent all the same,
    and the future may differ from the past: a certificate made with them holds as far as they are like independent draws.

    Args:
        inputs: shape (rows, columns); windows that touch NaN are left out.
        outputs: as many rows; what is foretold.
        window: rows of history.
        horizon: rows that follow.
        certify: how many windows certify; by default as many as a third of the rows hold.

    Returns:
        The windows.

    Raises:
        BadInput: for arrays of other shapes or counts below 1.
        TooFewSamples: when the rows do not suffice.

    Example:
        >>> x = np.arange(100.0)[:, None]
        >>> made = cut_windows(x, x, window=3, horizon=2)
        >>> made.fitting[0].shape, made.certifying[1].shape, made.certifying[1][-1, :, 0]
        ((66, 3, 1), (6, 2, 1), array([98., 99.]))
    """
    span = require_int("window", window, least=1) + require_int("horizon", horizon, least=1)
    if certify is not None:
        require_int("certify", certify, least=1)
    if inputs.ndim != 2 or outputs.ndim != 2 or len(inputs) != len(outputs):
        raise BadInput("series", "two-dimensional, of equally many rows", f"{inputs.shape} and {outputs.shape}")
    rows = len(inputs)
    if rows < 2 * span + LEAST_FITTING:
        raise TooFewSamples("rows of the series", 2 * span + LEAST_FITTING, rows, f"windows of {window} + {horizon}")
    whole = _clean(inputs, window)[: rows - span + 1] & _clean(outputs, horizon)[window:]
    earliest = rows - max(span, rows // CERTIFYING_SHARE) if certify is None else 0
    certifying = _side_by_side(whole, span, earliest, MOST_CERTIFYING if certify is None else certify)
    if len(certifying) < (certify or 1):
        raise TooFewSamples("windows that certify", certify or 1, len(certifying), "side by side, no value missing")
    last = certifying[0] - span + 1
    # Not every k-th, which could meet a daily cycle at few of its hours.
    starts = np.linspace(0, last - 1, min(last, MOST_FITTING)).astype(np.int64) if last > 0 else np.arange(0)
    fitting = starts[whole[starts]]
    if len(fitting) < LEAST_FITTING:
        raise TooFewSamples("windows that fit", LEAST_FITTING, len(fitting), "before those that certify")

    def pick(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            inputs[starts[:, None] + np.arange(window)],
            outputs[starts[:, None] + np.arange(window, span)],
        )

    return Windows(pick(fitting), pick(certifying), len(starts) - len(fitting))


def _clean(values: np.ndarray, length: int) -> np.ndarray:
    """Whether the `length` rows from each row on hold no NaN."""
    missing = np.concatenate([[0], np.isnan(values).any(axis=1).cumsum()])
    return missing[length:] == missing[:-length]


def _side_by_side(whole: np.ndarray, span: int, earliest: int, most: int) -> np.ndarray:
    """Starts of at most `most` whole windows, packed from the end on."""
    found: list[int] = []
    start = len(whole) - 1
    while start >= earliest and len(found) < most:
        if whole[start]:
            found.append(start)
            start -= span
        else:
            start -= 1
    return np.array(found[::-1], dtype=np.int64)
