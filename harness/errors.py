"""What can go wrong, as a tree.

HarnessError
├── SettingsError        the user asked for something that cannot be; raised before anything is measured
│   └── UnsupportedError   a store or device lacks what was asked for; refused alone, `skipped` in a sweep
├── DataError            a dataset cannot be read, is empty, or contradicts itself
├── AuditError           a model's output is not what it claims to be; the cell ends as `invalid`
├── WeightsError         pretrained weights were insisted on and cannot be had
├── StoreError           a store refused, vanished, or did not become ready in time
│   └── StoreTimeoutError  a request was not answered within its own time limit
└── CellError            a measuring process died, hung or ran out of memory

A message names the configuration key, the rule, the value and the remedy, in one or two sentences.
Library exceptions are translated where they appear, with ``raise ... from error``. A traceback is for
bugs in this project, never for a user's mistake.
"""

from __future__ import annotations

from collections.abc import Sequence


class HarnessError(Exception):
    """Anything this project raises on purpose."""


class SettingsError(HarnessError):
    """One or more settings break a rule; every violation is listed, not only the first.

    Parameters
    ----------
    violations : str or sequence of str
        One sentence each: key, rule, value, remedy.
    """

    def __init__(self, violations: str | Sequence[str]) -> None:
        self.violations: tuple[str, ...] = (violations,) if isinstance(violations, str) else tuple(violations)
        super().__init__("\n".join(self.violations))


class UnsupportedError(SettingsError):
    """A combination that a store or device cannot do; a sweep goes on without it."""


class DataError(HarnessError):
    """A dataset cannot be read, is empty, or contradicts itself."""


class AuditError(HarnessError):
    """A model's output is not what it claims to be, so a number about it would be wrong."""


class WeightsError(HarnessError):
    """Pretrained weights were insisted on and cannot be had."""


class StoreError(HarnessError):
    """A vector store refused a request, vanished, or did not become ready before its deadline."""


class StoreTimeoutError(StoreError):
    """A request to a store was not answered within its own time limit; counted apart from other errors."""


class CellError(HarnessError):
    """A measuring process died, hung or ran out of memory before it had a result.

    Parameters
    ----------
    text : str
        What happened and what to do.
    status : str
        The status under which the cell is recorded: ``failed``, ``oom`` or ``invalid``.
    """

    def __init__(self, text: str, *, status: str = "failed") -> None:
        super().__init__(text)
        self.status = status
