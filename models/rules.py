"""Rules for settings that several models share, so that the same mistake gets the same message everywhere.

Each function returns the violations it found as sentences (key, rule, value, remedy), an empty list if
there are none; a model's ``__post_init__`` gathers them and raises all at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from models.weights import CHOICES


def integer(key: str, value: Any, *, minimum: int) -> list[str]:
    """`value` is an int (a bool is not one) and at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        return [f"{key} must be an integer of at least {minimum}, got {value!r}"]
    return []


def integers(key: str, value: Any, *, minimum: int) -> list[str]:
    """`value` is a list of ints of at least `minimum`; it may be empty."""
    if isinstance(value, str) or not isinstance(value, Sequence) or any(integer(key, item, minimum=minimum) for item in value):
        return [f"{key} must be a list of integers of at least {minimum}, got {value!r}"]
    return []


def positive(key: str, value: Any) -> list[str]:
    """`value` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return [f"{key} must be a finite number above 0, got {value!r}"]
    return []


def text(key: str, value: Any, *, empty: bool = False) -> list[str]:
    """`value` is a string, by default one that is not empty."""
    if not isinstance(value, str) or not (empty or value.strip()):
        return [f"{key} must be {'a string' if empty else 'a string that is not empty'}, got {value!r}"]
    return []


def text_or_null(key: str, value: Any) -> list[str]:
    """`value` is null or a string that is not empty."""
    if value is None:
        return []
    return [message.replace("must be", "must be null or") for message in text(key, value)]


def boolean(key: str, value: Any) -> list[str]:
    """`value` is true or false."""
    return [] if isinstance(value, bool) else [f"{key} must be true or false, got {value!r}"]


def one_of(key: str, value: Any, allowed: Sequence[str]) -> list[str]:
    """`value` is one of the `allowed` words."""
    return [] if isinstance(value, str) and value in allowed else [f"{key} must be one of {', '.join(allowed)}, got {value!r}"]


def mapping_with(key: str, value: Any, *, needs: str) -> list[str]:
    """`value` is a mapping that holds at least the key `needs`."""
    if not isinstance(value, Mapping):
        return [f"{key} must be a mapping, got {value!r}"]
    if needs not in value:
        return [f"{key}.{needs} must be set: it says what is built for random weights; {key} has {', '.join(map(str, value)) or 'no keys'}"]
    return []


def plain(value: Any) -> Any:
    """Return `value` with every mapping as a dict and every sequence as a list, all the way down.

    Settings may arrive as OmegaConf containers; the libraries they are handed to know only the built-in ones.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value


def common(model: Any) -> list[str]:
    """Check the settings that every model here has; `model` is the settings object."""
    found = [
        *text("model.source", model.source),
        *integer("model.dim", model.dim, minimum=1),
        *positive("model.gflop_per_item", model.gflop_per_item),
        *mapping_with("model.architecture", model.architecture, needs="model_type"),
        *text_or_null("model.revision", model.revision),
        *one_of("model.weights", model.weights, CHOICES),
        *text_or_null("model.path", model.path),
        *text_or_null("model.package", model.package),
        *texts("model.ignored_keys", model.ignored_keys),
        *integer("model.seed", model.seed, minimum=0),
    ]
    if model.path is not None and model.weights == "random":
        found.append(f"model.path must be null when model.weights=random, got {model.path!r}; drop one of the two")
    return found


def texts(key: str, value: Any) -> list[str]:
    """`value` is a list of strings that are not empty."""
    if isinstance(value, str) or not isinstance(value, Sequence) or any(text(key, item) for item in value):
        return [f"{key} must be a list of strings that are not empty, got {value!r}"]
    return []
