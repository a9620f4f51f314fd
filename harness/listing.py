"""``python -m harness list``: every option of every group, with the line its YAML begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
    for group in (*GROUPS, "device"):
        table = Table(title=group, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        lines = DEVICES if group == "device" else described(group, config_dirs)
        for name, line in lines.items():
            table.add_row(f"{group}={name}", line)
        console.print(table)
        console.print()


def described(group: str, config_dirs: Sequence[str] = ()) -> dict[str, str]:
    """Return a group's options with the comment on the first line of each one's YAML."""
    found: dict[str, str] = {}
    for folder in [CONF, *(Path(folder) for folder in config_dirs)]:
        for path in sorted((folder / group).glob("*.yaml")):
            first = path.read_text(encoding="utf-8").split("\n", 1)[0]
            found.setdefault(path.stem, first.lstrip("# ").strip() if first.startswith("#") else "")
    return found
