"""What a gate measures, as its YAML in ``conf/gate`` says it: cells, metrics, floors, targets, budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import SettingsError
from harness.gate.kinds import KINDS, Kind

EMBED = ("forward_s", "pipeline_s", "query_embed_s", "load_s", "vectors")
"""Metrics of a cell's model."""
SEARCH = ("search_s", "search_p95_s", "search_p99_s", "insert_s", "build_s", "recall", "index_bytes")
"""Metrics of a cell's collection; `recall` is ``recall_of_builds`` where several threads build."""
MEMORY = "peak_rss_bytes"
"""Of a process that has loaded and measured all cells, so it belongs to no single one."""

_DURATION = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: Any) -> float | None:
    """Return the seconds in a time such as ``90s``, ``5m`` or ``2h``; None where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", str(text))
    return float(found[1]) * _DURATION[found[2]] if found and float(found[1]) > 0 else None


@dataclass(frozen=True)
class GateCell:
    """One job whose model, collection or both are measured on both sides."""

    name: str
    overrides: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def parts(self) -> list[str]:
        """Which of ``embed`` and ``search`` has to be loaded for its metrics."""
        return [part for part, names in (("embed", EMBED), ("search", SEARCH)) if set(names) & set(self.metrics)]


@dataclass(frozen=True)
class GateSettings:
    """A gate's definition; both sides are measured by the same one.

    Parameters
    ----------
    cells : mapping
        Name to ``{set: "key=value …", metrics: [...]}``.
    common : str
        Settings of every cell, before its own.
    budget : str
        Time for measuring, such as ``5m``; reproducing what looks like a regression may take as long again.
    threads : int
        CPU threads that libraries may use. With 1, processor time decides about in-process cells, and recall is exact.
    blocks : int
        Timed samples of a metric, side and round.
    block_ms : float
        Least length of a sample.
    seed : int
        Of the orders in which things are measured.
    memory : bool
        Whether the peak memory of the measuring processes is compared.
    floors, targets : mapping
        Metric to another floor or target than its kind has (`harness.gate.kinds`).
    """

    cells: Any
    common: str = ""
    budget: str = "5m"
    threads: int = 1
    blocks: int = 8
    block_ms: float = 10.0
    seed: int = 0
    memory: Any = True
    floors: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value."""
        wrong = []
        if seconds(self.budget) is None:
            wrong.append(f"gate.budget must be a time such as 90s, 5m or 1h, got {self.budget!r}")
        wrong += [
            f"gate.{name} must be a whole number ≥ {low}, got {value!r}"
            for name, value, low in (("threads", self.threads, 1), ("blocks", self.blocks, 2), ("seed", self.seed, 0))
            if type(value) is not int or value < low
        ]
        if type(self.block_ms) not in (int, float) or not math.isfinite(self.block_ms) or self.block_ms <= 0:
            wrong.append(f"gate.block_ms must be a number > 0, got {self.block_ms!r}")
        if type(self.memory) is not bool:
            wrong.append(f"gate.memory must be true or false, got {self.memory!r}")
        if not isinstance(self.cells, Mapping) or not self.cells:
            wrong.append(f"gate.cells must name at least one cell, got {self.cells!r}")
        else:
            for name, cell in self.cells.items():
                wrong += _cell_violations(str(name), cell)
        for what, given in (("floors", self.floors), ("targets", self.targets)):
            for metric, value in given.items():
                if metric not in KINDS:
                    wrong.append(f"gate.{what}.{metric} is not a metric; there are {', '.join(KINDS)}")
                elif type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                    wrong.append(f"gate.{what}.{metric} must be a number ≥ 0, got {value!r}")
        if not wrong:
            wrong += [
                f"gate: the floor of {name} must be below its target, got {self.kind(name).floor:g} and {self.kind(name).target:g}"
                for name in {*self.floors, *self.targets}
                if KINDS[name].name in ("duration", "tail", "memory") and self.kind(name).floor >= self.kind(name).target
            ]
        if wrong:
            raise SettingsError(wrong)

    @property
    def budget_s(self) -> float:
        """The budget in seconds."""
        found = seconds(self.budget)
        assert found is not None
        return found

    def kind(self, metric: str) -> Kind:
        """Return a metric's kind with this gate's own floor and target."""
        kind = KINDS[metric]
        return replace(kind, floor=float(self.floors.get(metric, kind.floor)), target=float(self.targets.get(metric, kind.target)))

    def all_cells(self) -> tuple[GateCell, ...]:
        """Return the cells."""
        return tuple(
            GateCell(
                str(name),
                (*self.common.split(), *str(cell["set"]).split(), f"threads={self.threads}"),
                tuple("recall_of_builds" if metric == "recall" and self.threads > 1 else metric for metric in cell["metrics"]),
            )
            for name, cell in self.cells.items()
        )


def _cell_violations(name: str, cell: Any) -> list[str]:
    if not isinstance(cell, Mapping) or set(cell) != {"set", "metrics"} or not isinstance(cell["metrics"], Sequence):
        return [f"gate.cells.{name} must have `set`, settings as on the command line, and `metrics`, a list, got {cell!r}"]
    known = (*EMBED, *SEARCH)
    found = [f"gate.cells.{name}.metrics: {metric!r} is not one of {', '.join(known)}" for metric in cell["metrics"] if metric not in known]
    if not cell["metrics"]:
        found.append(f"gate.cells.{name}.metrics must name at least one of {', '.join(known)}")
    bad = [word for word in str(cell["set"]).split() if "=" not in word]
    return found + [f"gate.cells.{name}.set: {word!r} is not key=value" for word in bad]


def open_settings(name: str, *, config_dirs: Sequence[str] = ()) -> GateSettings:
    """Return the settings in ``gate/<name>.yaml`` of ours or of a user's folder, or in a file.

    Raises
    ------
    harness.errors.SettingsError
        When there is no such option, or it breaks a rule.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    from harness.build import build
    from harness.settings import CONF, options

    folders = [CONF, *(Path(folder) for folder in config_dirs)]
    places = [Path(name)] if name.endswith((".yaml", ".yml")) else [folder / "gate" / f"{name}.yaml" for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SettingsError(f"--gate {name} is not an option; it has {', '.join(options('gate', config_dirs))}, or give a YAML file")
    try:
        node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise SettingsError(f"--gate {name}: {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(node, dict):
        raise SettingsError(f"--gate {name}: {path} must hold settings, see {CONF / 'gate/default.yaml'}")
    node.setdefault("_target_", "harness.gate.settings.GateSettings")
    settings: GateSettings = build(node, key="gate")
    return settings
