"""``python -m harness compare``: from what was asked to what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.compare.comparison import Comparison, compare
from harness.compare.rows import read_side, time_of
from harness.compare.show import html, markdown, terminal
from harness.errors import HarnessError, SettingsError
from harness.records import write_atomically


def run(
    folders: Sequence[str],
    *,
    before: str | None = None,
    after: str | None = None,
    where: Sequence[str] = (),
    against: Sequence[str] = (),
    across_machines: bool = False,
    to_markdown: str | None = None,
    to_html: str | None = None,
) -> None:
    """Compare as the command line asks; the first folder is the base of every comparison.

    Raises
    ------
    harness.errors.SettingsError
        When what was asked is not one comparison.
    harness.errors.DataError
        When a folder holds nothing to compare.
    """
    from rich.console import Console

    comparisons = _comparisons(folders, before, after, _conditions("--where", where), _conditions("--against", against), across_machines)
    console = Console()
    for comparison in comparisons:
        terminal(comparison, console)
        console.print()
    for file, content in ((to_markdown, markdown), (to_html, html)):
        if file is not None:
            path = Path(file)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content(comparisons).encode("utf-8", "backslashreplace"))
            except OSError as error:
                raise HarnessError(f"{path} cannot be written ({error.strerror or error}); name another file") from error


def _comparisons(
    folders: Sequence[str], before: str | None, after: str | None, where: dict[str, str], against: dict[str, str], across_machines: bool
) -> list[Comparison]:
    times = before is not None or after is not None
    if len(folders) > 1 and times:
        raise SettingsError(f"--before and --after split one folder, got {len(folders)}; name one")
    if len(folders) == 1 and not times and not against:
        raise SettingsError(
            "compare needs two folders, or one with --before TIME, or one with --where and --against, such as "
            "--where store=faiss --against store=milvus_lite"
        )
    if times:
        end = time_of(before or after or "", "--before")
        start = time_of(after or before or "", "--after")
        if start < end:
            raise SettingsError(f"--after must not lie before --before, got {after} and {before}")
        sides = [read_side(Path(folders[0]), until=end), read_side(Path(folders[0]), since=start)]
    else:
        sides = [read_side(Path(folder)) for folder in folders]
        sides = sides if len(sides) > 1 else [sides[0], sides[0]]
    found = [compare(sides[0], head, where=where, against=against, across_machines=across_machines) for head in sides[1:]]
    if where and not any(one.judged or one.only_base for one in found):
        raise SettingsError(f"--where {' '.join(f'{name}={value}' for name, value in where.items())} fits no row of {folders[0]}")
    return found


def _conditions(option: str, words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in (part for several in words for part in several.split()):
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise SettingsError(f"{option} takes settings such as store=faiss or ef=64, got {word!r}")
        found[name] = value
    return found
