"""Record the rounds that the gate's rule is proved on; `rounds.parquet` beside this file was made with it.

    python tests/gate/record_rounds.py record quiet quiet.jsonl --minutes 20
    python tests/gate/record_rounds.py record hogged hogged.jsonl --minutes 20 --hogs 2
    python tests/gate/record_rounds.py pack rounds.parquet quiet.jsonl hogged.jsonl

``record`` appends one JSON line a round, so that stopping it loses nothing; ``pack`` writes the Parquet file. ``--hogs 2`` keeps two
processes spinning meanwhile: a machine with two cores then has less than one left for the measurement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

from harness.gate.planted import ARMS, BLOCKS, calibrate, measure_round


def hog() -> None:
    """Keep one processor busy."""
    while True:
        pass


def record(series: str, path: Path, *, minutes: float, hogs: int) -> None:
    """Append rounds to `path` for so many minutes."""
    busy = [multiprocessing.Process(target=hog, daemon=True) for _ in range(hogs)]
    loops = calibrate()
    for process in busy:
        process.start()
    chooser = random.Random()
    stop = time.monotonic() + minutes * 60
    try:
        with path.open("a") as file:
            number = 0
            while time.monotonic() < stop:
                times = measure_round(loops, chooser)
                line = {"series": series, "round": number, "at": time.time(), "load": os.getloadavg()[0], "loops": loops, "times": times}
                file.write(json.dumps(line) + "\n")
                file.flush()
                number += 1
    finally:
        for process in busy:
            process.terminate()


def pack(target: Path, sources: list[Path]) -> None:
    """Write the rounds of `sources` as one tidy table: a row for each round, kernel, arm and block, times in whole microseconds."""
    import pandas as pd

    rows = []
    about = {}
    for source in sources:
        lines = [json.loads(text) for text in source.read_text().splitlines()]
        series = lines[0]["series"]
        for number, line in enumerate(lines):
            for kernel, arms in line["times"].items():
                for arm, blocks in zip(ARMS, arms, strict=True):
                    assert len(blocks) == BLOCKS
                    rows += [(series, kernel, arm, number, block, wall, cpu) for block, (wall, cpu) in enumerate(blocks)]
        loads = sorted(line["load"] for line in lines)
        minutes = (lines[-1]["at"] - lines[0]["at"]) / 60
        about[series] = (
            f"{len(lines)} rounds in {minutes:.0f} min, load average {loads[0]:.1f} to {loads[-1]:.1f}, median {loads[len(loads) // 2]:.1f}"
        )
    frame = pd.DataFrame(rows, columns=["series", "kernel", "arm", "round", "block", "wall_us", "cpu_us"])
    frame = frame.astype(dict.fromkeys(("series", "kernel", "arm"), "category") | {"round": "int16", "block": "int8"})
    for clock in ("wall_us", "cpu_us"):
        frame[clock] = (frame[clock] / 1000).round().astype("int32")
    frame = frame.sort_values(["series", "kernel", "arm", "round", "block"], ignore_index=True)
    frame.attrs = about
    frame.to_parquet(target, compression="zstd", index=False)
    print("\n".join(f"{series}: {words}" for series, words in about.items()))


def main() -> None:
    """Record or pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("series")
    recording.add_argument("path", type=Path)
    recording.add_argument("--minutes", type=float, required=True)
    recording.add_argument("--hogs", type=int, default=0)
    packing = commands.add_parser("pack")
    packing.add_argument("target", type=Path)
    packing.add_argument("sources", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.series, arguments.path, minutes=arguments.minutes, hogs=arguments.hogs)
    else:
        pack(arguments.target, arguments.sources)


if __name__ == "__main__":
    main()
