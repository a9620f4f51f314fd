"""From a YAML node with ``_target_`` to the object it names, with errors a user can act on."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from harness.errors import SettingsError


def build(node: Mapping[str, Any], *, key: str) -> Any:
    """Return the object that a configuration node describes; no work is done by constructing it.

    Parameters
    ----------
    node : mapping
        ``_target_`` and the settings to construct it with, resolved to plain values.
    key : str
        The configuration key of the node, such as ``model``, for messages.

    Raises
    ------
    harness.errors.SettingsError
        When the target cannot be imported, lacks a setting or does not know one, or refuses a value.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise SettingsError(f"{key}._target_ must be package.module.Class, got {target!r}")
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SettingsError(
            f"{key}._target_={target} cannot be imported: {error}; is its package installed or in the current directory?"
        ) from error
    kind = getattr(module, name, None)
    if kind is None:
        raise SettingsError(f"{key}._target_={target}: {module_name} has no {name}")
    settings = {name: value for name, value in node.items() if name != "_target_"}
    known = inspect.signature(kind).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        unknown = [f"{key}.{name} is not a setting of {target}; it has {', '.join(known)}" for name in settings if name not in known]
        missing = [
            f"{key}.{name} must be given; add {key}.{name}=…"
            for name, parameter in known.items()
            if name not in settings and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        ]
        if unknown or missing:
            raise SettingsError(unknown + missing)
    return kind(**settings)
