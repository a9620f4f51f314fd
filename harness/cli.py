"""The command line.

``python -m harness key=value …`` measures; everything else is a command with a name. Exit codes: 0 done, 1 a cell
failed, 2 a mistake in what was asked, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness import __version__, interrupts
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
COMMANDS = ("plan", "report", "list", "doctor", "choose", "cache", "merge", "gate", "compare", "project", "scaling")


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
        return _obey(arguments)
    except SettingsError as error:
        _complain(error.violations)
        return 2
    except DataError as error:
        _complain([str(error)])
        return 2
    except HarnessError as error:
        _complain([str(error)])
        return 1
    except KeyboardInterrupt as stopped:
        print(str(stopped) or "interrupted; what was measured is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 141


def _obey(arguments: list[str]) -> int:
    try:
        if arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help")):
            return _command(arguments)
        return _measure(arguments)
    except Exception as error:
        interrupts.raise_again(error)
        raise


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

    interrupts.listen()
    return run_command(overrides, multirun=multirun, config_dirs=folders)


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
    """List every model, dataset, device, store, index, workload and sweep, with a line each."""
    from harness.listing import show_options

    show_options(config_dir or [])


@app.command()
def doctor() -> None:
    """Say what this machine has: devices, libraries, the model hub, conflicts, Milvus."""
    from harness.doctor import show_health

    show_health()


@app.command()
def choose(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of results, such as results/default.")],
    objective: Annotated[str, typer.Option(help="What the best is best at: latency, throughput, quality or cost.")] = "latency",
    min_recall: Annotated[float | None, typer.Option(help="Least recall of the index, such as 0.95.")] = None,
    max_p99: Annotated[str | None, typer.Option(help="Longest p99 of embedding a query and searching, such as 20ms.")] = None,
    min_ndcg: Annotated[float | None, typer.Option(help="Least nDCG@10 through the index.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Most memory of model and index together, such as 16GB.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Your prices, as in conf/prices.example.yaml.")] = None,
    corpus: Annotated[str | None, typer.Option(help="For the cost of a month: documents, such as 10M.")] = None,
    rate: Annotated[float | None, typer.Option(help="For the cost of a month: queries a second on average.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Which dataset, where there are several: name or name/documents.")] = None,
    machine: Annotated[str | None, typer.Option(help="Which machine, where there are several: beginning of its fingerprint.")] = None,
    k: Annotated[int | None, typer.Option(help="Neighbours a search, where there are several.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Measure the best two in one real loop too.")] = False,
    config_dir: Annotated[list[str] | None, typer.Option(help="For --verify: a folder with more options, as given to the run.")] = None,
) -> None:
    """Choose one configuration for production: constraints, an objective, why each other one lost; exit code 1 if none qualifies."""
    from harness.choose.command import Asked, run

    asked = Asked(
        objective=objective,
        min_recall=min_recall,
        max_p99=max_p99,
        min_ndcg=min_ndcg,
        max_memory=max_memory,
        prices=prices,
        corpus=corpus,
        rate=rate,
        dataset=dataset,
        machine=machine,
        k=k,
    )
    if verify:  # which measures
        interrupts.listen()
    raise typer.Exit(run(folder, asked, verify=verify, config_dirs=config_dir or []))


@app.command()
def project(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of results measured at three corpus sizes or more.")],
    corpus: Annotated[str, typer.Option(help="Corpus sizes to look ahead to, such as 10M,100M,1B.")],
    min_recall: Annotated[float, typer.Option(help="Recall for which the required knob is projected.")] = 0.95,
) -> None:
    """Project build time, memory, latency and the required knob to larger corpora, with prediction intervals."""
    from harness.project import run

    raise typer.Exit(run(folder, corpus=corpus, min_recall=min_recall))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def scaling(
    context: typer.Context,
    workers: Annotated[str, typer.Option(help="Numbers of workers, such as 1,2,4.")] = "1,2",
    repeats: Annotated[int, typer.Option(help="Rounds, each of which measures every number of workers once.")] = 3,
    items: Annotated[int | None, typer.Option(help="Documents to embed; all of the corpus by default.")] = None,
) -> None:
    """Measure what more workers gain when a corpus is embedded by engine=ray: documents a second and scaling efficiency."""
    from harness.scaling import run

    overrides, multirun, folders, flags = _split(context.args)
    if flags or multirun:
        raise SettingsError(f"{(flags or ['-m'])[0]} is not an option of scaling")
    interrupts.listen()
    run(overrides, workers=workers, repeats=repeats, items=items, config_dirs=folders)


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of results, as of several machines.", show_default=False)],
    into: Annotated[Path, typer.Option(help="The folder that gets their records.")],
) -> None:
    """Bring the records of several folders into one; what is damaged is named and left out, and then the exit code is 1."""
    from harness.merge import merge as bring

    merged = bring(folders, into)
    for path, reason in merged.left_out:
        print(f"left out: {path}: {reason}", file=sys.stderr)
    print(f"{into}: {merged.brought} records brought, {merged.there} were there already; `python -m harness report {into}` shows them")
    raise typer.Exit(1 if merged.left_out else 0)


cache = typer.Typer(help="List or prune what is kept between runs: data, vectors, ground truth.", invoke_without_command=True)
app.add_typer(cache, name="cache")


@cache.callback()
def cache_listed(context: typer.Context) -> None:
    """List what is kept between runs, or prune it: data, vectors, ground truth."""
    if context.invoked_subcommand is None:
        cache_list()


@cache.command(name="list")
def cache_list() -> None:
    """Show what the cache holds: kinds, sizes, when each was last used; what a running process uses is marked."""
    from harness.listing import show_cache

    show_cache()


@cache.command(name="prune")
def cache_prune(
    max_size: Annotated[str | None, typer.Option(help="Remove what was unused for longest until this much is left, e.g. 20GB.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Remove what was last used longer ago than this, e.g. 30d.")] = None,
) -> None:
    """Remove what has not been used for long; never what a running process uses."""
    from harness import cache as kept

    if max_size is None and older_than is None:
        raise SettingsError("say what to remove: --max-size 20GB, --older-than 30d, or both")
    removed = kept.prune(
        max_bytes=None if max_size is None else kept.bytes_of(max_size, key="--max-size"),
        older_than_s=None if older_than is None else kept.seconds_of(older_than, key="--older-than"),
    )
    left = kept.entries()
    print(
        f"{kept.root()}: {len(removed)} removed ({sum(entry.bytes for entry in removed) / 1e6:,.1f} MB), "
        f"{len(left)} left ({sum(entry.bytes for entry in left) / 1e6:,.1f} MB)"
    )


@app.command()
def gate(
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BASE HEAD]", help="Stored results: two folders, or pytest-benchmark files 'base*.json' 'head*.json'."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Git reference to compare with; else where HEAD left origin/main.")] = None,
    head: Annotated[str | None, typer.Option(help="Git reference that is judged; else the working tree as it is.")] = None,
    control: Annotated[bool, typer.Option("--control", help="Also measure a second copy of base: is the machine to be trusted?")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 where a case stays inconclusive.")] = False,
    budget: Annotated[str | None, typer.Option(help="Time for measuring, such as 5m; reproducing may take as long again.")] = None,
    only: Annotated[str | None, typer.Option(help="Words: only cells or metrics that have one of them.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder to write to; else one named by the time in results/gate.")] = None,
    base_env: Annotated[str | None, typer.Option(help="Python interpreter, or folder of an environment, of the base.")] = None,
    head_env: Annotated[str | None, typer.Option(help="The same of the head.")] = None,
    base_set: Annotated[str, typer.Option(help="Settings of the base, such as 'dtype=fp32'.")] = "",
    head_set: Annotated[str, typer.Option(help="Settings of the head, such as 'dtype=bf16'.")] = "",
    option: Annotated[str, typer.Option("--gate", help="What is measured: an option of conf/gate, or a YAML file.")] = "default",
    config_dir: Annotated[list[str] | None, typer.Option(help="A folder with options of your own, below each side's source.")] = None,
    pytest: Annotated[list[str] | None, typer.Option(help="Measure this pytest-benchmark suite instead, on both sides.")] = None,
    head_files: Annotated[list[str] | None, typer.Option(help="Files of the head, where more than two are given.")] = None,
    across_machines: Annotated[bool, typer.Option("--across-machines", help="Compare stored results of different machines.")] = False,
    self_test: Annotated[int | None, typer.Option(help="Try so many gates of known truth on this machine.")] = None,
) -> None:
    """Fail when performance has regressed, and only then: exit code 0 no, 1 yes, 3 untrustworthy, 4 not comparable, 5 a cell crashed."""
    from harness.gate.command import Options, gate_command
    from harness.gate.sides import Asked

    code = gate_command(
        Options(
            given=tuple(given or ()),
            head_files=tuple(head_files or ()),
            sides=Asked(base, head, base_env, head_env, tuple(base_set.split()), tuple(head_set.split())),
            control=control,
            strict=strict,
            budget=budget,
            only=only,
            out=out,
            option=option,
            config_dirs=tuple(config_dir or ()),
            pytest=tuple(pytest or ()),
            self_test=self_test,
            across_machines=across_machines,
        )
    )
    raise typer.Exit(code)


@app.command()
def compare(
    folders: Annotated[
        list[str], typer.Argument(metavar="BASE [HEAD…]", help="Folders of results; the first is the base of all.", show_default=False)
    ],
    before: Annotated[str | None, typer.Option(help="One folder: base is what was measured before this time (UTC).")] = None,
    after: Annotated[str | None, typer.Option(help="One folder: head is what was measured since this time; --before's by default.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="Only rows with this setting, such as store=faiss or ef=64.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="The head's rows have this setting instead: store=milvus_lite.")] = None,
    across_machines: Annotated[bool, typer.Option("--across-machines", help="Compare timings of different machines too.")] = False,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Write the comparison as Markdown too.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write the comparison as an HTML page too.")] = None,
) -> None:
    """Say what differs between results: rows matched on settings, ratios with intervals, what cannot be compared and why."""
    from harness.compare.command import run

    run(
        folders,
        before=before,
        after=after,
        where=where or (),
        against=against or (),
        across_machines=across_machines,
        to_markdown=markdown,
        to_html=html,
    )
