"""What a person sees while cells are measured: a live display on a terminal, plain lines where there is none.

Both tell the stage, its rate where it has one, and the time left. They are written by the parent, which does not measure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

_LINE_EVERY_S = 15.0
"""Seconds between two plain lines about the same work."""


class Progress:
    """Shows how far a run has come.

    Parameters
    ----------
    total_s : float
        Estimated seconds for everything that is missing.
    console : rich.console.Console
        Where to write.
    """

    def __init__(self, total_s: float, console: Console) -> None:
        self._console = console
        self._left_s = total_s
        self._title = ""
        self._started = self._last_line = time.monotonic()
        self._estimate_s = 0.0
        self._stage = ""
        self._stage_started = self._started
        self._bar: Bar | None = None

    @contextmanager
    def __call__(self) -> Iterator[Progress]:
        """Show the display while the body runs."""
        if not self._console.is_terminal:
            yield self
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        ) as bar:
            self._bar = bar
            self._task = bar.add_task("starting", total=1.0, note="")
            try:
                yield self
            finally:
                self._bar = None

    def start(self, title: str, estimate_s: float) -> None:
        """Begin a piece of work that is estimated to take some seconds."""
        self._title, self._estimate_s, self._stage = title, estimate_s, ""
        self._started = time.monotonic()
        if self._bar is None:
            self._console.print(f"{title} …", highlight=False, soft_wrap=True)
            self._last_line = time.monotonic()
        else:
            self._bar.update(self._task, description=title, completed=0.0, note=self._left())

    def stage(self, name: str, fraction: float, total: int = 0) -> None:
        """Note that a stage of the present work is that far (0 … 1), of so many items, rows or requests where they are counted."""
        now = time.monotonic()
        if name != self._stage:
            self._stage, self._stage_started = name, now
        rate = f", {fraction * total / (now - self._stage_started):,.0f}/s" if fraction and total and now > self._stage_started + 1 else ""
        note = f"{name} {fraction:.0%}{rate}, {self._left()}" if fraction else f"{name}, {self._left()}"
        if self._bar is not None:
            share = min(0.99, (now - self._started) / self._estimate_s) if self._estimate_s else fraction
            self._bar.update(self._task, completed=share, note=note)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._console.print(f"  {self._title}: {note}", highlight=False, soft_wrap=True)

    def say(self, words: str) -> None:
        """Print a line that stays."""
        self._console.print(words, highlight=False, soft_wrap=True)

    def done(self, outcome: str) -> None:
        """End the present work with a word about it."""
        took = time.monotonic() - self._started
        self._left_s = max(0.0, self._left_s - self._estimate_s)
        self._console.print(f"{outcome} {self._title} ({took:.0f} s)", highlight=False, soft_wrap=True)

    def _left(self) -> str:
        running = max(0.0, self._estimate_s - (time.monotonic() - self._started))
        return f"about {in_words(max(0.0, self._left_s - self._estimate_s) + running)} left"


def in_words(seconds: float) -> str:
    """Return a duration as people write it: ``40 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def console() -> Console:
    """Return the console for everything a person reads while a run goes on: standard error."""
    from rich.console import Console

    return Console(file=sys.stderr)
