"""Figures in words: times, sizes and counts, three digits each."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """In s, ms, µs or ns, three digits.

    Example:
        >>> duration(0.00123), duration(75.0)
        ('1.23 ms', '75 s')
    """
    return _scaled(seconds, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)))


def size(number: float) -> str:
    """Bytes in words.

    Example:
        >>> size(2_500_000)
        '2.5 MB'
    """
    return _scaled(number, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0)))


def count(number: float) -> str:
    """A count, rounded to three digits from 10,000 on.

    Example:
        >>> count(1234), count(1_234_567)
        ('1,234', '1.23 million')
    """
    return (
        f"{number:,.0f}" if number < 1e4 else _scaled(number, (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)))
    )


def _scaled(number: float, units: tuple[tuple[str, float], ...]) -> str:
    unit, scale = next(((u, s) for u, s in units if number >= s), units[-1])
    value = float(f"{number / scale:.3g}")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:g} {unit}"
