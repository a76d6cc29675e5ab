"""Texts of models in formats that hold UTF-8."""

from typing import Any


def storable(value: Any) -> Any:
    """A text whose lone surrogates, which UTF-8 cannot hold, are U+FFFD; other values as they are."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
