"""Index families: what can be set, within which ranges, and which knob trades recall for time.

One small frozen dataclass a family. A family says nothing about a store: each store translates these
names into its own spelling and refuses what it has not got. To add a family, add a dataclass and a
YAML in ``conf/index/``. A family whose rules need only some of rows, dimension and k ignores the rest.

Ranges are those of Milvus, https://milvus.io/docs/index-vector-fields.md and the page of each index.
``M`` has to be at least 2 because FAISS ends the whole process at 1, where the expected height of
the graph, 1 / ln(M), is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from harness.errors import SettingsError

LARGEST_INT = 2**31 - 1
"""Milvus keeps these parameters in 32-bit signed integers."""

SQ_TYPES = ("SQ4U", "SQ6", "SQ8", "BF16", "FP16")
"""Scalar quantisers of HNSW_SQ, https://milvus.io/docs/hnsw-sq.md."""


@dataclass(frozen=True)
class FLAT:
    """Every row compared with the query: exact, and the yardstick for the others."""

    family: ClassVar[str] = "FLAT"
    knob: ClassVar[str | None] = None

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """Nothing can be wrong with an index that has no parameters."""
        return []

    def build_params(self) -> dict[str, int | float | str]:
        """No build parameters."""
        return {}

    def search_params(self) -> list[dict[str, int | float]]:
        """One operating point without parameters."""
        return [{}]


@dataclass(frozen=True)
class HNSW:
    """Hierarchical navigable small-world graph (Malkov and Yashunin, 2016).

    Parameters
    ----------
    M : int
        Links of a node in the upper layers; twice as many in the lowest. In [2, 2048].
    ef_construction : int
        Candidates kept while a row is being linked in. At least 1.
    ef : sequence of int
        Candidates kept while searching, one operating point each, strictly increasing, each >= k.

    Raises
    ------
    harness.errors.SettingsError
        When a value is not a whole number in its range; names every one that is not.
    """

    family: ClassVar[str] = "HNSW"
    knob: ClassVar[str | None] = "ef"

    M: int = 16
    ef_construction: int = 200
    ef: Sequence[int] = (10, 16, 64, 256)

    def __post_init__(self) -> None:
        _freeze(self, "ef")
        _refuse(self._own_violations())

    def _own_violations(self) -> list[str]:
        return [
            *_number("index.M", self.M, low=2, high=2048),
            *_number("index.ef_construction", self.ef_construction, low=1, high=LARGEST_INT),
            *_curve("index.ef", self.ef, low=1, high=LARGEST_INT),
        ]

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """A graph search that keeps `ef` candidates cannot answer with more than `ef` rows."""
        too_small = [ef for ef in self.ef if ef < max(k, default=0)]
        if not too_small:
            return []
        return [f"index.ef must be >= k={max(k)}, got {_listed(too_small)}; raise index.ef or lower k"]

    def build_params(self) -> dict[str, int | float | str]:
        """What the graph is built with."""
        return {"M": self.M, "ef_construction": self.ef_construction}

    def search_params(self) -> list[dict[str, int | float]]:
        """One operating point for each value of `ef`."""
        return [{"ef": ef} for ef in self.ef]


@dataclass(frozen=True)
class HNSW_SQ(HNSW):  # noqa: N801
    """HNSW over scalar-quantised rows: a fraction of the memory for some recall.

    Parameters
    ----------
    sq_type : str
        The quantiser: SQ4U, SQ6, SQ8 (bits a dimension), BF16 or FP16.
    """

    family: ClassVar[str] = "HNSW_SQ"

    sq_type: str = "SQ8"

    def _own_violations(self) -> list[str]:
        found = super()._own_violations()
        if self.sq_type not in SQ_TYPES:
            found.append(f"index.sq_type must be one of {', '.join(SQ_TYPES)}, got {self.sq_type!r}")
        return found

    def build_params(self) -> dict[str, int | float | str]:
        """What the graph is built with, and the quantiser."""
        return {**super().build_params(), "sq_type": self.sq_type}


@dataclass(frozen=True)
class IVF_FLAT:  # noqa: N801
    """Inverted file: rows sorted into cells by k-means, the nearest cells searched exhaustively.

    Parameters
    ----------
    nlist : int
        Number of cells. In [1, 65536] and no more than there are rows.
    nprobe : sequence of int
        Cells searched, one operating point each, strictly increasing, each in [1, nlist]. With
        ``nprobe = nlist`` every row is compared.

    Raises
    ------
    harness.errors.SettingsError
        When a value is not a whole number in its range; names every one that is not.
    """

    family: ClassVar[str] = "IVF_FLAT"
    knob: ClassVar[str | None] = "nprobe"

    nlist: int = 64
    nprobe: Sequence[int] = (1, 4, 16, 64)

    def __post_init__(self) -> None:
        _freeze(self, "nprobe")
        nlist = _number("index.nlist", self.nlist, low=1, high=65536)
        limit = "65536" if nlist else f"index.nlist={self.nlist}"
        _refuse([*nlist, *_curve("index.nprobe", self.nprobe, low=1, high=65536 if nlist else self.nlist, limit=limit)])

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """k-means needs at least one row for each cell."""
        if self.nlist <= rows:
            return []
        return [f"index.nlist must be <= {rows}, the number of rows, got {self.nlist}; lower index.nlist or take a larger corpus"]

    def build_params(self) -> dict[str, int | float | str]:
        """What the cells are trained with."""
        return {"nlist": self.nlist}

    def search_params(self) -> list[dict[str, int | float]]:
        """One operating point for each value of `nprobe`."""
        return [{"nprobe": nprobe} for nprobe in self.nprobe]


@dataclass(frozen=True)
class IVF_SQ8(IVF_FLAT):  # noqa: N801
    """IVF whose rows are stored in 8 bits a dimension: a quarter of the memory for some recall."""

    family: ClassVar[str] = "IVF_SQ8"


def _freeze(index: object, field: str) -> None:
    """Turn a list, as it comes from YAML, into a tuple; leave anything else for the checks to refuse."""
    value = getattr(index, field)
    if isinstance(value, Sequence) and not isinstance(value, str):
        object.__setattr__(index, field, tuple(value))


def _refuse(violations: list[str]) -> None:
    if violations:
        raise SettingsError(violations)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(key: str, value: Any, *, low: int, high: int) -> list[str]:
    if _is_whole(value) and low <= value <= high:
        return []
    return [f"{key} must be a whole number in [{low}, {high}], got {value!r}"]


def _curve(key: str, values: Any, *, low: int, high: int, limit: str = "") -> list[str]:
    """Check a list of operating points: not empty, whole numbers in range, strictly increasing."""
    if not isinstance(values, tuple) or not values:
        return [f"{key} must be a list of at least one whole number, e.g. [{low}], got {values!r}"]
    odd = [value for value in values if not _is_whole(value)]
    if odd:
        return [f"{key} must hold whole numbers only, got {_listed(odd)}"]
    outside = [value for value in values if not low <= value <= high]
    if outside:
        return [f"{key} must be in [{low}, {limit or high}], got {_listed(outside)}"]
    if any(later <= earlier for earlier, later in pairwise(values)):
        return [f"{key} must be strictly increasing, got {list(values)}; write {sorted(set(values))}"]
    return []


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in values)
