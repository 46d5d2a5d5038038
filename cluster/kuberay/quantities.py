"""Kubernetes' quantities: 500m CPUs, 4Gi of memory."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_QUANTITY = re.compile(
    r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?", re.ASCII
)


def parse(quantity: str | int | float) -> Decimal:
    """Return a quantity as a number of CPUs, bytes or pieces.

    >>> parse("500m"), parse("1.5Gi"), parse("1e3"), parse(2)
    (Decimal('0.500'), Decimal('1610612736.0'), Decimal('1E+3'), Decimal('2'))

    Raises:
        ValueError: It is none.
    """
    match = _QUANTITY.fullmatch(str(quantity).strip())
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity of Kubernetes such as 500m or 4Gi")
    number, unit = match[1], match[2] or ""
    if unit in _UNITS:
        return Decimal(number) * _UNITS[unit]
    return Decimal(number + unit)


def cpus(amount: float) -> str:
    """Return CPUs, to a thousandth.

    >>> cpus(2.0), cpus(0.5), cpus(0)
    ('2', '500m', '0')
    """
    thousandths = round(amount * 1000)
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)


def memory(amount: int) -> str:
    """Return bytes, in the largest unit that keeps them exact.

    >>> memory(4 * 2**30), memory(1536 * 2**20), memory(1000)
    ('4Gi', '1536Mi', '1000')
    """
    for unit in ("Gi", "Mi", "Ki"):
        count, rest = divmod(amount, int(_UNITS[unit]))
        if not rest:
            return f"{count}{unit}"
    return str(amount)


def short(amount: Decimal) -> str:
    """Return a quantity as a person reads it.

    >>> short(parse("1500m")), short(parse("5041553408")), short(parse("4Gi"))
    ('1.5', '4.7Gi', '4Gi')
    """
    for unit in ("Gi", "Mi"):
        if amount >= _UNITS[unit]:
            return f"{float(amount / _UNITS[unit]):.3g}{unit}"
    return f"{float(amount):g}"
