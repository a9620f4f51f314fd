"""Index families: what can be set, within which ranges, and which knob trades recall for time.

One small frozen dataclass a family. A family says nothing about a store: each store translates these
names into its own spelling and refuses what it has not got. To add a family, add a dataclass and a
YAML in ``conf/index/``. A family whose rules need only some of rows, dimension and k ignores the rest.

Ranges are those of Milvus, https://milvus.io/docs/index-vector-fields.md and the page of each index;
where a page is silent, those that its engine checks (https://github.com/zilliztech/knowhere).
``M`` has to be at least 2 because FAISS ends the whole process at 1, where the expected height of
the graph, 1 / ln(M), is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from harness.errors import SettingsError

LARGEST_INT = 2**31 - 1
"""Milvus keeps these parameters in 32-bit signed integers."""

PRECISIONS = {"SQ4U": 4, "SQ6": 6, "SQ8": 8, "BF16": 16, "FP16": 16, "FP32": 32}
"""Bits a dimension of the scalar quantisers, and of what a refinement may keep."""

SQ_TYPES = ("SQ4U", "SQ6", "SQ8", "BF16", "FP16")
"""Scalar quantisers of HNSW_SQ, https://milvus.io/docs/hnsw-sq.md."""

REFINE_TYPES = ("SQ6", "SQ8", "BF16", "FP16", "FP32")
"""What rows are kept as for refinement, https://milvus.io/docs/hnsw-sq.md."""

MOST_LEVELS = 10
"""Levels of AUTOINDEX, https://docs.zilliz.com/docs/tune-recall-rate."""

GPU_LARGEST_K = 1024
"""Most neighbours that Milvus's indexes on a GPU return, https://milvus.io/docs/index-with-gpu.md."""


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

    def knob_range(self, *, rows: int, dim: int, k: int) -> tuple[int, int] | None:  # noqa: ARG002
        """There is no knob."""
        return None

    def at(self, value: int) -> dict[str, int | float]:  # noqa: ARG002
        """There is nothing to set."""
        return {}


@dataclass(frozen=True)
class _Curve:
    """What all families with a knob share: a list of its values, each an operating point."""

    family: ClassVar[str]
    knob: ClassVar[str]

    def __post_init__(self) -> None:
        _freeze(self, self.knob)
        _refuse(self._own_violations())

    def _own_violations(self) -> list[str]:
        """Every setting that is wrong whatever the corpus."""
        raise NotImplementedError

    def search_params(self) -> list[dict[str, int | float]]:
        """One operating point for each value of the knob."""
        return [self.at(value) for value in getattr(self, self.knob)]

    def at(self, value: int) -> dict[str, int | float]:
        """Search parameters with the knob at `value`."""
        return {self.knob: value}

    def _below_k(self, k: Sequence[int]) -> list[str]:
        """A search that keeps so many candidates cannot answer with more rows than that."""
        too_small = [value for value in getattr(self, self.knob) if value < max(k, default=0)]
        if not too_small:
            return []
        return [f"index.{self.knob} must be >= k={max(k)}, got {_listed(too_small)}; raise index.{self.knob} or lower k"]


@dataclass(frozen=True)
class HNSW(_Curve):
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
    knob: ClassVar[str] = "ef"

    M: int = 16
    ef_construction: int = 200
    ef: Sequence[int] = (10, 16, 64, 256)

    def _own_violations(self) -> list[str]:
        return [
            *_number("index.M", self.M, low=2, high=2048),
            *_number("index.ef_construction", self.ef_construction, low=1, high=LARGEST_INT),
            *_curve("index.ef", self.ef, low=1, high=LARGEST_INT),
        ]

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """A graph search that keeps `ef` candidates cannot answer with more than `ef` rows."""
        return self._below_k(k)

    def build_params(self) -> dict[str, int | float | str]:
        """What the graph is built with."""
        return {"M": self.M, "ef_construction": self.ef_construction}

    def knob_range(self, *, rows: int, dim: int, k: int) -> tuple[int, int] | None:  # noqa: ARG002
        """From the fewest candidates that can hold the answer to every row."""
        return k, max(k, rows)


@dataclass(frozen=True)
class Refined:
    """A second look: the candidates that a compressed index found are ranked anew by less compressed copies of the rows.

    Parameters
    ----------
    refine : bool
        Whether to.
    refine_type : str
        What the copies are kept as: SQ6, SQ8 (bits a dimension), BF16, FP16 or FP32; with `refine` only.
    refine_k : float
        Candidates ranked anew, as a multiple of k. At least 1; with `refine` only.
    """

    refine: bool = False
    refine_type: str = "FP32"
    refine_k: float = 2.0

    def _refine_violations(self) -> list[str]:
        found = [] if isinstance(self.refine, bool) else [f"index.refine must be true or false, got {self.refine!r}"]
        if self.refine_type not in REFINE_TYPES:
            found.append(f"index.refine_type must be one of {', '.join(REFINE_TYPES)}, got {self.refine_type!r}")
        number = isinstance(self.refine_k, int | float) and not isinstance(self.refine_k, bool)
        if not number or not math.isfinite(self.refine_k) or self.refine_k < 1:
            found.append(f"index.refine_k must be a finite number of at least 1, got {self.refine_k!r}")
        return found

    def _refine_build(self) -> dict[str, int | float | str]:
        return {"refine": True, "refine_type": self.refine_type} if self.refine else {}

    def _refine_search(self) -> dict[str, int | float]:
        return {"refine_k": self.refine_k} if self.refine else {}


@dataclass(frozen=True)
class HNSW_SQ(Refined, HNSW):  # noqa: N801
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
        found += self._refine_violations()
        if self.refine and not found and PRECISIONS[self.refine_type] <= PRECISIONS[self.sq_type]:
            found.append(f"index.refine_type must be more precise than index.sq_type={self.sq_type}, got {self.refine_type}; take FP32")
        return found

    def build_params(self) -> dict[str, int | float | str]:
        """What the graph is built with, the quantiser, and the refinement if there is one."""
        return {**super().build_params(), "sq_type": self.sq_type, **self._refine_build()}

    def at(self, value: int) -> dict[str, int | float]:
        """Search parameters with `ef` at `value`."""
        return {**super().at(value), **self._refine_search()}


@dataclass(frozen=True)
class HNSW_PQ(Refined, HNSW):  # noqa: N801
    """HNSW over product-quantised rows: `m` codes of `nbits` each, far less memory for more of the recall.

    Parameters
    ----------
    m : int
        Parts that a vector is cut into; divides the dimension. In [1, 65536].
    nbits : int
        Bits of a part's code; the 2 ** nbits code words are learned from as many rows at least. In [1, 24].
    """

    family: ClassVar[str] = "HNSW_PQ"

    m: int = 32
    nbits: int = 8

    def _own_violations(self) -> list[str]:
        return [*super()._own_violations(), *_code_violations(self.m, self.nbits), *self._refine_violations()]

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:
        """Besides ``ef >= k``: `m` divides the dimension, and there are rows enough to learn the codes from."""
        return [*super().violations(rows=rows, dim=dim, k=k), *_code_fits(self.m, self.nbits, rows=rows, dim=dim)]

    def build_params(self) -> dict[str, int | float | str]:
        """What the graph is built with, the quantiser, and the refinement if there is one."""
        return {**super().build_params(), "m": self.m, "nbits": self.nbits, **self._refine_build()}

    def at(self, value: int) -> dict[str, int | float]:
        """Search parameters with `ef` at `value`."""
        return {**super().at(value), **self._refine_search()}


@dataclass(frozen=True)
class HNSW_PRQ(HNSW_PQ):  # noqa: N801
    """HNSW over rows quantised in parts, and then what is left of them again: finer than HNSW_PQ, slower to build.

    Parameters
    ----------
    nrq : int
        Rounds of quantising what is left. In [1, 16].
    """

    family: ClassVar[str] = "HNSW_PRQ"

    nrq: int = 2

    def _own_violations(self) -> list[str]:
        return [*super()._own_violations(), *_number("index.nrq", self.nrq, low=1, high=16)]

    def build_params(self) -> dict[str, int | float | str]:
        """What the graph is built with, the quantiser, and the refinement if there is one."""
        return {**super().build_params(), "nrq": self.nrq}


@dataclass(frozen=True)
class IVF_FLAT(_Curve):  # noqa: N801
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
    knob: ClassVar[str] = "nprobe"

    nlist: int = 64
    nprobe: Sequence[int] = (1, 4, 16, 64)

    def _own_violations(self) -> list[str]:
        nlist = _number("index.nlist", self.nlist, low=1, high=65536)
        limit = "65536" if nlist else f"index.nlist={self.nlist}"
        return [*nlist, *_curve("index.nprobe", self.nprobe, low=1, high=65536 if nlist else self.nlist, limit=limit)]

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """k-means needs at least one row for each cell."""
        if self.nlist <= rows:
            return []
        return [f"index.nlist must be <= {rows}, the number of rows, got {self.nlist}; lower index.nlist or take a larger corpus"]

    def build_params(self) -> dict[str, int | float | str]:
        """What the cells are trained with."""
        return {"nlist": self.nlist}

    def knob_range(self, *, rows: int, dim: int, k: int) -> tuple[int, int] | None:  # noqa: ARG002
        """From one cell to all of them."""
        return 1, self.nlist


@dataclass(frozen=True)
class IVF_SQ8(IVF_FLAT):  # noqa: N801
    """IVF whose rows are stored in 8 bits a dimension: a quarter of the memory for some recall."""

    family: ClassVar[str] = "IVF_SQ8"


@dataclass(frozen=True)
class IVF_PQ(IVF_FLAT):  # noqa: N801
    """IVF whose rows are stored as `m` codes of `nbits` each: far less memory for more of the recall.

    Parameters
    ----------
    m : int
        Parts that a vector is cut into; divides the dimension. In [1, 65536].
    nbits : int
        Bits of a part's code; the 2 ** nbits code words are learned from as many rows at least. In [1, 24].
    """

    family: ClassVar[str] = "IVF_PQ"

    m: int = 32
    nbits: int = 8

    def _own_violations(self) -> list[str]:
        return [*super()._own_violations(), *_code_violations(self.m, self.nbits)]

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:
        """Besides ``nlist <= rows``: `m` divides the dimension, and there are rows enough to learn the codes from."""
        return [*super().violations(rows=rows, dim=dim, k=k), *_code_fits(self.m, self.nbits, rows=rows, dim=dim)]

    def build_params(self) -> dict[str, int | float | str]:
        """What the cells and codes are trained with."""
        return {**super().build_params(), "m": self.m, "nbits": self.nbits}


@dataclass(frozen=True)
class IVF_RABITQ(Refined, IVF_FLAT):  # noqa: N801
    """IVF whose rows are stored in 1 bit a dimension (RaBitQ, Gao and Long, 2024), best with refinement.

    Parameters
    ----------
    rbq_query_bits : int
        Bits a dimension that the query is quantised to while cells are scanned; 0 leaves it as it is. In [0, 8]. The paper has 4,
        which in FAISS is 60 times as quick as 0 and finds as much.
    """

    family: ClassVar[str] = "IVF_RABITQ"

    refine: bool = True
    refine_type: str = "SQ8"
    refine_k: float = 5.0
    rbq_query_bits: int = 4

    def _own_violations(self) -> list[str]:
        bits = _number("index.rbq_query_bits", self.rbq_query_bits, low=0, high=8)
        return [*super()._own_violations(), *bits, *self._refine_violations()]

    def build_params(self) -> dict[str, int | float | str]:
        """What the cells are trained with, and the refinement if there is one."""
        return {**super().build_params(), **self._refine_build()}

    def at(self, value: int) -> dict[str, int | float]:
        """Search parameters with `nprobe` at `value`."""
        return {**super().at(value), "rbq_query_bits": self.rbq_query_bits, **self._refine_search()}


@dataclass(frozen=True)
class SCANN(IVF_FLAT):
    """IVF over 4-bit codes of pairs of dimensions, scanned in registers; the best candidates are ranked anew by the rows themselves.

    Parameters
    ----------
    reorder_k : int
        Candidates ranked anew, the same at every operating point. At least k.
    """

    family: ClassVar[str] = "SCANN"

    reorder_k: int = 100

    def _own_violations(self) -> list[str]:
        return [*super()._own_violations(), *_number("index.reorder_k", self.reorder_k, low=1, high=LARGEST_INT)]

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:
        """Besides ``nlist <= rows``: ``reorder_k >= k``, and an even dimension."""
        found = super().violations(rows=rows, dim=dim, k=k)
        if self.reorder_k < max(k, default=0):
            found.append(f"index.reorder_k must be >= k={max(k)}, got {self.reorder_k}; raise index.reorder_k or lower k")
        if dim % 2:
            found.append(f"index=scann needs an even dimension, got {dim}")
        return found

    def at(self, value: int) -> dict[str, int | float]:
        """Search parameters with `nprobe` at `value`."""
        return {**super().at(value), "reorder_k": self.reorder_k}


@dataclass(frozen=True)
class DISKANN(_Curve):
    """A graph on disk, walked by compressed rows in memory (Subramanya et al., 2019); what it is built with is the server's configuration.

    Parameters
    ----------
    search_list : sequence of int
        Candidates kept while searching, one operating point each, strictly increasing, each >= k.
    """

    family: ClassVar[str] = "DISKANN"
    knob: ClassVar[str] = "search_list"

    search_list: Sequence[int] = (10, 20, 50, 100)

    def _own_violations(self) -> list[str]:
        return _curve("index.search_list", self.search_list, low=1, high=LARGEST_INT)

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """A search that keeps so many candidates cannot answer with more rows than that."""
        return self._below_k(k)

    def build_params(self) -> dict[str, int | float | str]:
        """Nothing that a client sets."""
        return {}

    def knob_range(self, *, rows: int, dim: int, k: int) -> tuple[int, int] | None:  # noqa: ARG002
        """From the fewest candidates that can hold the answer to every row."""
        return k, max(k, rows)


@dataclass(frozen=True)
class AUTOINDEX(_Curve):
    """The index that the server chooses by itself; `level` asks for more recall, where it takes one (Zilliz Cloud).

    Parameters
    ----------
    level : sequence of int
        From 1, quick, to 10, thorough; one operating point each, strictly increasing.
    """

    family: ClassVar[str] = "AUTOINDEX"
    knob: ClassVar[str] = "level"

    level: Sequence[int] = (1, 2, 3, 5)

    def _own_violations(self) -> list[str]:
        return _curve("index.level", self.level, low=1, high=MOST_LEVELS)

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """Whatever the corpus, the server copes."""
        return []

    def build_params(self) -> dict[str, int | float | str]:
        """The server's choice."""
        return {}

    def knob_range(self, *, rows: int, dim: int, k: int) -> tuple[int, int] | None:  # noqa: ARG002
        """From the quickest to the most thorough."""
        return 1, MOST_LEVELS


@dataclass(frozen=True)
class GPU_BRUTE_FORCE(FLAT):  # noqa: N801
    """Every row compared with the query, on a GPU: exact."""

    family: ClassVar[str] = "GPU_BRUTE_FORCE"


@dataclass(frozen=True)
class GPU_IVF_FLAT(IVF_FLAT):  # noqa: N801
    """IVF_FLAT on a GPU; k is at most 1,024."""

    family: ClassVar[str] = "GPU_IVF_FLAT"

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:
        """Besides ``nlist <= rows``: k is at most 1,024."""
        return [*super().violations(rows=rows, dim=dim, k=k), *_too_deep_for_a_gpu(k)]


@dataclass(frozen=True)
class GPU_IVF_PQ(IVF_PQ):  # noqa: N801
    """IVF_PQ on a GPU; `nbits` is in [4, 8] there, and k at most 1,024."""

    family: ClassVar[str] = "GPU_IVF_PQ"

    def _own_violations(self) -> list[str]:
        found = super()._own_violations()
        return found or _number("index.nbits", self.nbits, low=4, high=8)

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:
        """Besides the rules of IVF_PQ: k is at most 1,024."""
        return [*super().violations(rows=rows, dim=dim, k=k), *_too_deep_for_a_gpu(k)]


@dataclass(frozen=True)
class GPU_CAGRA(_Curve):  # noqa: N801
    """A graph built and walked on a GPU (Ootomo et al., 2023).

    Parameters
    ----------
    intermediate_graph_degree : int
        Links of a node before the graph is pruned; at least 1, less than there are rows.
    graph_degree : int
        Links that are left; at least 1, no more than `intermediate_graph_degree`.
    search_width : int
        Nodes that each iteration of a search starts from. At least 1.
    itopk_size : sequence of int
        Candidates kept while searching, which the engine rounds up to a multiple of 32; one operating point each, strictly
        increasing, each >= k.
    """

    family: ClassVar[str] = "GPU_CAGRA"
    knob: ClassVar[str] = "itopk_size"

    intermediate_graph_degree: int = 64
    graph_degree: int = 32
    search_width: int = 4
    itopk_size: Sequence[int] = (32, 64, 128, 256)

    def _own_violations(self) -> list[str]:
        between = _number("index.intermediate_graph_degree", self.intermediate_graph_degree, low=1, high=LARGEST_INT)
        final = _number("index.graph_degree", self.graph_degree, low=1, high=LARGEST_INT)
        if not between and not final and self.graph_degree > self.intermediate_graph_degree:
            final = [
                f"index.graph_degree must be <= index.intermediate_graph_degree={self.intermediate_graph_degree}, got {self.graph_degree};"
                " links are only taken away"
            ]
        return [
            *between,
            *final,
            *_number("index.search_width", self.search_width, low=1, high=LARGEST_INT),
            *_curve("index.itopk_size", self.itopk_size, low=1, high=LARGEST_INT),
        ]

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:  # noqa: ARG002
        """Enough candidates for k, k at most 1,024, and more rows than a node has links."""
        found = [*self._below_k(k), *_too_deep_for_a_gpu(k)]
        if self.intermediate_graph_degree >= rows:
            found.append(
                f"index.intermediate_graph_degree must be < {rows}, the number of rows, got {self.intermediate_graph_degree};"
                " lower it or take a larger corpus"
            )
        return found

    def build_params(self) -> dict[str, int | float | str]:
        """What the graph is built with."""
        return {"intermediate_graph_degree": self.intermediate_graph_degree, "graph_degree": self.graph_degree}

    def knob_range(self, *, rows: int, dim: int, k: int) -> tuple[int, int] | None:  # noqa: ARG002
        """From the fewest candidates that can hold the answer to as many as a search can return rows."""
        return k, max(k, GPU_LARGEST_K)

    def at(self, value: int) -> dict[str, int | float]:
        """Search parameters with `itopk_size` at `value`."""
        return {**super().at(value), "search_width": self.search_width}


def _code_violations(m: Any, nbits: Any) -> list[str]:
    return [*_number("index.m", m, low=1, high=65536), *_number("index.nbits", nbits, low=1, high=24)]


def _code_fits(m: int, nbits: int, *, rows: int, dim: int) -> list[str]:
    """Rules of a product quantiser for a corpus: parts of equal size, and k-means over at least as many rows as code words."""
    found = []
    if dim % m:
        below = max(part for part in range(1, min(m, dim) + 1) if dim % part == 0)
        found.append(f"index.m must divide the dimension {dim}, got {m}; take index.m={below}")
    if 2**nbits > rows:
        found.append(f"index.nbits={nbits} needs {2**nbits} rows to learn its code words from, there are {rows}; lower index.nbits")
    return found


def _too_deep_for_a_gpu(k: Sequence[int]) -> list[str]:
    return [f"k must be <= {GPU_LARGEST_K} on a GPU, got {each}; lower k" for each in k if each > GPU_LARGEST_K]


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
