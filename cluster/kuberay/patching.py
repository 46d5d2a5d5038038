"""JSON merge patches. Source: RFC 7386."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge(value: Any, patch: Any) -> Any:
    """Return a value with a patch: mappings are merged, null removes, all else takes the place.

    >>> merge({"a": 1, "b": {"c": [1, 2], "d": 3}}, {"a": None, "b": {"c": [4]}})
    {'b': {'c': [4], 'd': 3}}
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(value) if isinstance(value, Mapping) else {}
    for key, entry in patch.items():
        if entry is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), entry)
    return merged
