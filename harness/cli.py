"""The command line.

``python -m harness key=value …`` measures; everything else is a command with a name. Exit codes: 0 done, 1 a cell
failed, 2 a mistake in what was asked, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness import __version__
from harness.errors import DataError, HarnessError, SettingsError

_EPILOG = """
**Measure:** `python -m harness [-m] [--config-dir DIR] [key=value …]`

`python -m harness` · MiniLM on real text, Milvus Lite, HNSW

`python -m harness model=resnet50 index=hnsw` · images

`python -m harness -m batch_size=1,8,32 index=flat,hnsw,ivf_flat` · a sweep; started again, it measures only what is missing

`python -m harness --cfg job` · all settings

Records and reports go to `results/<name>`: `name=x` chooses it. `fresh=true` measures again, `budget=10m` shrinks the corpus to fit.
"""

app = typer.Typer(
    name="python -m harness",
    help="Measures embedding models, devices, batch sizes and vector indexes together, on the same vectors.",
    epilog=_EPILOG,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = ("plan", "report", "list", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if str(Path.cwd()) not in sys.path:  # the installed command starts without it; a user's plug-ins lie there
        sys.path.append(str(Path.cwd()))
    if arguments == ["--version"]:
        print(f"embedding-search-harness {__version__}")
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        if arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help")):
            return _command(arguments)
        return _measure(arguments)
    except SettingsError as error:
        _complain(error.violations)
        return 2
    except DataError as error:
        _complain([str(error)])
        return 2
    except HarnessError as error:
        _complain([str(error)])
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 141


def _command(arguments: list[str]) -> int:
    try:
        app(arguments)
    except SystemExit as ended:  # how typer ends, also well
        return int(ended.code or 0)
    return 0


def _complain(violations: Sequence[str]) -> None:
    for violation in violations:
        print(f"error: {violation}", file=sys.stderr)


# ----------------------------------------------------------------------------------------- measuring


def _split(arguments: Sequence[str]) -> tuple[list[str], bool, list[str], list[str]]:
    """Return overrides, whether it is a sweep, the user's configuration folders, and Hydra's own flags."""
    overrides, folders, flags = [], [], []
    multirun = False
    waiting = iter(arguments)
    for argument in waiting:
        if argument in ("-m", "--multirun"):
            multirun = True
        elif argument in ("--config-dir", "-cd"):
            folder = next(waiting, None)
            if folder is None:
                raise SettingsError("--config-dir needs a folder")
            folders.append(folder)
        elif argument.startswith("--config-dir="):
            folders.append(argument.partition("=")[2])
        elif argument in ("--cfg", "-c", "--package", "-p", "--info", "-i"):
            flags += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    return overrides, multirun, folders, flags


def _measure(arguments: Sequence[str]) -> int:
    overrides, multirun, folders, flags = _split(arguments)
    if flags:
        return _hydra_only(arguments, flags)
    from harness.session import run_command

    signal.signal(signal.SIGTERM, _terminate)
    return run_command(overrides, multirun=multirun, config_dirs=folders)


def _terminate(*_: object) -> None:
    """End as on Ctrl-C when asked to terminate: measuring processes and working folders are cleared away."""
    raise SystemExit(143)


def _hydra_only(arguments: Sequence[str], flags: Sequence[str]) -> int:
    """Let Hydra answer questions about the configuration (``--cfg job``, ``--info``), measuring nothing."""
    if not set(flags) & {"--cfg", "-c", "--info", "-i"}:
        raise SettingsError(f"{flags[0]} is not an option here; see `python -m harness --help`")
    import hydra

    from harness.settings import CONF

    before = sys.argv
    sys.argv = ["harness", *arguments]
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(lambda _: None)()
    finally:
        sys.argv = before
    return 0


# ------------------------------------------------------------------------------------------ commands


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(context: typer.Context) -> None:
    """Show the cells that a run or sweep needs, which exist, which are skipped and why, and the time it will take; measures nothing."""
    from harness.plan import make_plan
    from harness.session import show_plan

    overrides, multirun, folders, flags = _split(context.args)
    if flags:
        raise SettingsError(f"{flags[0]} is not an option of plan")
    show_plan(make_plan(overrides, multirun=multirun, config_dirs=folders), everything=True)


@app.command()
def report(folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder of results, such as results/default.")]) -> None:
    """Rebuild the reports of a folder of results from its records, and print the tables."""
    from harness.session import show_report

    show_report(Path(folder))


@app.command(name="list")
def list_options(
    config_dir: Annotated[list[str] | None, typer.Option(help="A folder with more options, as given to a run.")] = None,
) -> None:
    """List every model, dataset, device, store, index and workload, with a line each."""
    from harness.listing import show_options

    show_options(config_dir or [])


@app.command()
def doctor() -> None:
    """Say what this machine has: devices, libraries, the model hub, conflicts, Milvus."""
    from harness.doctor import show_health

    show_health()
