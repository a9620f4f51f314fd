"""``python -m harness list``: every option of every group, with the line its YAML begins with, and what each store has of the indexes.

*Verified* means that our tests run it against the real engine of that version; *declared*, that its settings and the translation of its
requests are tested, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from harness import cache
from harness.build import build
from harness.interfaces import Store, Verified
from harness.settings import CONF, GROUPS

DEVICES = {
    "auto": "The first accelerator that torch sees, otherwise the CPU.",
    "cpu": "The processor; threads=N sets how many threads a library may use.",
    "cuda": "The first NVIDIA (or ROCm) GPU; cuda:N is GPU number N.",
    "mps": "The GPU of an Apple computer.",
}


def show_options(config_dirs: Sequence[str]) -> None:
    """Print a table of all options, ours and those in a user's configuration folders."""
    console = Console()
    for group in (*GROUPS, "device", "sweep"):
        table = Table(title=group, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        lines = DEVICES if group == "device" else described(group, config_dirs)
        for name, line in lines.items():
            table.add_row(f"{'+' if group == 'sweep' else ''}{group}={name}", line)
        console.print(table)
        console.print()
    show_families(config_dirs)


def show_families(config_dirs: Sequence[str]) -> None:
    """Print for each store which index families it has, verified by engine version or declared."""
    table = Table(title="what each store has of the indexes", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    for heading in ("store", "verified", "declared"):
        table.add_column(heading, no_wrap=heading == "store", justify="left")
    for option in described("store", config_dirs):
        families, verified = families_of(option, config_dirs)
        named = {family for found in verified.values() for family in found}
        table.add_row(
            option,
            "; ".join(f"{version}: {', '.join(found)}" for version, found in verified.items()) or "–",
            ", ".join(family for family in families if family not in named) or "–",
        )
    console = Console()
    console.print(table)
    console.print()


def families_of(option: str, config_dirs: Sequence[str] = ()) -> tuple[tuple[str, ...], Mapping[str, tuple[str, ...]]]:
    """Return the index families of a store as its YAML has it, and those among them that were verified, by engine version."""
    path = next(
        folder / "store" / f"{option}.yaml" for folder in [CONF, *map(Path, config_dirs)] if (folder / "store" / f"{option}.yaml").exists()
    )
    node: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[assignment]
    store: Store = build(node, key="store")
    return store.families, store.verified if isinstance(store, Verified) else {}


def described(group: str, config_dirs: Sequence[str] = ()) -> dict[str, str]:
    """Return a group's options with the comment on the first line of each one's YAML, Hydra's own header left out."""
    found: dict[str, str] = {}
    for folder in [CONF, *(Path(folder) for folder in config_dirs)]:
        for path in sorted((folder / group).glob("*.yaml")):
            lines = path.read_text(encoding="utf-8").splitlines()
            first = next((line for line in lines if not line.startswith("# @")), "")  # which is for Hydra
            found.setdefault(path.stem, first.lstrip("# ").strip() if first.startswith("#") else "")
    return found


def show_cache() -> None:
    """Print what the cache holds: a line a kind, then a line a folder, the one used last first."""
    found = cache.entries()
    console = Console()
    console.print(
        f"{cache.root()}: {len(found)} folders, {sum(entry.bytes for entry in found) / 1e6:,.1f} MB", highlight=False, soft_wrap=True
    )
    for kind in sorted({entry.kind for entry in found}):
        of_kind = [entry for entry in found if entry.kind == kind]
        console.print(f"  {kind}: {len(of_kind)} folders, {sum(entry.bytes for entry in of_kind) / 1e6:,.1f} MB", highlight=False)
    if not found:
        return
    table = Table(box=None, padding=(0, 2))
    for heading in ("kind", "key", "MB", "last used", ""):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "MB" else "left")
    for entry in reversed(found):
        used = datetime.fromtimestamp(entry.used_at).astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.kind, entry.key, f"{entry.bytes / 1e6:,.1f}", used, "in use" if entry.in_use else "")
    console.print(table)
