"""Amounts as Kubernetes writes them, such as 500m, 4Gi and 1e3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from raytune_hpo.errors import SpecError

Amounts = Mapping[str, Decimal]
"""Resources by name, such as ``cpu`` (cores), ``memory`` (bytes) and ``nvidia.com/gpu``."""

_FORM = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkMGTPE]|[KMGTPE]i))?", re.ASCII
)
_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def parse(text: str | int | float) -> Decimal:
    """Return an amount as a number: cores, bytes or pieces.

    >>> parse("500m"), parse("1Gi"), parse("1e3"), parse(2), parse("1M")
    (Decimal('0.500'), Decimal('1073741824'), Decimal('1000'), Decimal('2'), Decimal('1000000'))

    Raises:
        SpecError: It is no amount.
    """
    match = _FORM.fullmatch(str(text).strip())
    if match is None:
        raise SpecError(f"{text!r} is no amount as Kubernetes writes it, such as 500m, 2 or 4Gi")
    number, exponent, suffix = Decimal(match[1]), match[2], match[3] or ""
    if suffix in _BINARY:
        return number * (1 << 10 * (_BINARY.index(suffix) + 1))
    shift = int(exponent) if exponent else _DECIMAL[suffix]
    scaled = number.scaleb(shift)
    return scaled if scaled != scaled.to_integral_value() else scaled.quantize(Decimal(1))


def parse_all(texts: Mapping[str, Any] | None) -> dict[str, Decimal]:
    """Return amounts by the names of their resources; none for None.

    Raises:
        SpecError: One is no amount.
    """
    return {resource: parse(text) for resource, text in (texts or {}).items()}


def cpus(amount: float) -> str:
    """Return CPUs for a manifest, to a thousandth.

    >>> cpus(2.0), cpus(0.5), cpus(0)
    ('2', '500m', '0')
    """
    thousandths = round(amount * 1000)
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)


def memory(amount: int) -> str:
    """Return bytes for a manifest, in the largest unit that keeps them exact.

    >>> memory(4 * 2**30), memory(1536 * 2**20), memory(1000)
    ('4Gi', '1536Mi', '1000')
    """
    for power in (3, 2, 1):
        count, rest = divmod(amount, 1 << 10 * power)
        if not rest:
            return f"{count}{_BINARY[power - 1]}"
    return str(amount)


def bare(resource: str) -> str:
    """Return the name of a resource without what a quota puts before it.

    >>> bare("requests.cpu"), bare("limits.nvidia.com/gpu"), bare("memory")
    ('cpu', 'nvidia.com/gpu', 'memory')
    """
    return resource.removeprefix("requests.").removeprefix("limits.")


def shown(resource: str, amount: Decimal | int) -> str:
    """Return an amount of a resource as a person says it, rounded.

    Args:
        resource: Its name, as in a quota too: ``cpu``, ``requests.memory``, ``nvidia.com/gpu``.
        amount: Cores, bytes or pieces.

    >>> shown("cpu", parse("2500m")), shown("limits.memory", parse("1536Mi")), shown("pods", 3)
    ('2.5', '1.5Gi', '3')
    """
    name = bare(resource)
    if name in ("memory", "ephemeral-storage", "storage") or name.startswith("hugepages-"):
        return _bytes(Decimal(amount))
    return _plain(Decimal(amount))


def noun(resource: str) -> str:
    """Return what a resource is called in a sentence.

    >>> noun("requests.cpu"), noun("memory"), noun("requests.nvidia.com/gpu"), noun("limits.cpu")
    ('CPUs', 'of memory', 'nvidia.com/gpu', 'CPUs as limits')
    """
    limit = " as limits" if resource.startswith("limits.") else ""
    return {"cpu": "CPUs", "memory": "of memory"}.get(bare(resource), bare(resource)) + limit


def _bytes(amount: Decimal) -> str:
    for power in reversed(range(len(_BINARY))):
        unit = Decimal(1024) ** (power + 1)
        if abs(amount) >= unit:
            return f"{_plain(round(amount / unit, 2))}{_BINARY[power]}"
    return _plain(amount)


def _plain(amount: Decimal) -> str:
    text = f"{round(amount, 3):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
