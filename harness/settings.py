"""From a command line's overrides to a job whose every setting has been checked.

Hydra composes the configuration; this module resolves what says ``auto``, builds the model, dataset, store and index
(which costs nothing), and checks all that can be checked before anything is measured. It reports every violation at
once, and it never changes a value that somebody has set.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import devices, interrupts
from harness.build import build
from harness.errors import DataError, SettingsError, UnsupportedError
from harness.fingerprint import usable_cores
from harness.interfaces import (
    PARTS,
    Attention,
    Backend,
    Changeable,
    CorpusEngine,
    Dataset,
    Dtype,
    Exportable,
    Index,
    Metric,
    Model,
    Served,
    Store,
    VectorType,
    modalities,
)
from harness.machine_lock import Exclusive

_HERE = Path(__file__).resolve().parent
CONF = _HERE.parent / "conf" if (_HERE.parent / "conf" / "config.yaml").exists() else _HERE / "conf"
"""The shipped configuration: beside the package in a checkout, inside it in a wheel."""

GROUPS = ("model", "dataset", "store", "index", "workload", "engine")


@dataclass(frozen=True)
class Job:
    """One embed cell and one search cell to be measured, every setting resolved and checked."""

    overrides: tuple[str, ...]
    name: str
    results: str
    choices: Mapping[str, str]
    """Group to chosen option, e.g. ``{"model": "minilm", "dataset": "docstrings"}``; `auto` is resolved."""
    nodes: Mapping[str, Mapping[str, Any]]
    """Group to resolved settings with ``_target_``."""
    model: Model
    dataset: Dataset
    store: Store
    index: Index
    device: str
    dtype: Dtype
    attention: Attention
    compile: bool
    batch_size: int
    """Items a batch; 1, the first of the curve, where `find_batch_size`."""
    threads: int
    interop_threads: int | None
    metric: Metric
    k: tuple[int, ...]
    vector_type: VectorType
    filter: tuple[float | None, ...]
    """Selectivities that are searched with; None is no filter."""
    target_recall: tuple[float, ...]
    concurrency: tuple[int, ...]
    rate: tuple[float, ...]
    p99_target_s: float | None
    churn_per_s: tuple[float, ...]
    """Changes a second to the rows while one client searches, an operating point each."""
    churn_upserts: float
    """Share of the changes that replace a row; of the others half insert one and half delete one."""
    nq: int
    min_requests: int
    processes: int
    min_duration_s: float
    embed_items: int
    seed: int
    timeout_s: float
    fresh: bool
    exclusive: Exclusive
    """Whom this is timed beside, see `harness.machine_lock`."""
    budget_s: float | None
    find_batch_size: bool = False
    """Whether ``batch_size=auto`` asks for the whole curve of batch sizes up to its knee."""
    unsupported: tuple[str, ...] = ()
    """What the store or device cannot do of this job; in a sweep such a job is skipped, alone it is an error."""
    cannot_embed: bool = False
    """Whether it is the embedding that cannot be done, as for want of the device, and not what the store has to do."""
    backend: Backend = "torch"
    """What computes the vectors."""
    shrunk_from: int | None = None
    """The corpus size asked for, where a budget has made it smaller."""

    @property
    def folder(self) -> Path:
        """Where this job's records go."""
        return Path(self.results) / self.name


@contextmanager
def composing(config_dirs: Sequence[str] = ()) -> Iterator[None]:
    """Make Hydra ready to compose, with a user's own configuration folders after ours."""
    missing = [f"--config-dir {folder} is not a folder" for folder in config_dirs if not Path(folder).is_dir()]
    if missing:
        raise SettingsError(missing)
    outer = GlobalHydra.instance().hydra  # set when this is called from inside a job
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def compose_job(overrides: Sequence[str], *, config_dirs: Sequence[str] = ()) -> Job:
    """Return the checked job that some overrides describe; call it inside `composing`.

    Raises
    ------
    harness.errors.SettingsError
        Listing every violation.
    """
    return Composer(config_dirs=config_dirs).job(overrides)


@dataclass(frozen=True)
class _Composed:
    """A configuration as plain values, without Hydra's own part."""

    plain: Mapping[str, Any]
    choices: Mapping[str, str]
    asked: Mapping[str, Any]
    """The same, or, where ``dataset=auto`` was asked for, with that: what it lacks cannot be set, whichever dataset it leads to."""
    interpolated: bool
    """Whether some values were made of others, so that no other can be set afterwards."""


_FREE: Mapping[str, tuple[str, ...]] = {
    "batch_size": ("batch_size", "find_batch_size"),
    "seed": ("seed",),
    "embed_items": ("embed_items",),
    "threads": ("threads",),
    "interop_threads": ("interop_threads",),
    "processes": ("processes",),
    "min_duration_s": ("min_duration_s",),
    "timeout_s": ("timeout_s",),
}
"""Settings that are checked without a look at each other, each with the parts of a job that it decides and nothing else does."""


class Composer:
    """Composes the jobs of a sweep, each combination of choices once.

    Hydra takes tens of milliseconds to compose a configuration, nearly all of it for reading and merging files. What varies between the
    jobs and is a plain value of an existing key is therefore set afterwards, which is what Hydra itself does once all is merged. Options
    of groups, and what is added or removed, are composed anew. Use it inside `composing`.

    A job is checked once too: settings that are checked without a look at each other are checked each by itself, not in every combination.

    Parameters
    ----------
    jobs : sequence of sequences of str
        The overrides of all jobs, as `expand` returns them; without them every job is composed by itself.
    config_dirs : sequence of str
        A user's own configuration folders.
    """

    def __init__(self, jobs: Sequence[Sequence[str]] = (), *, config_dirs: Sequence[str] = ()) -> None:
        self._where = search_path(config_dirs)
        self._axes = _plain_axes(jobs)
        self._composed: dict[tuple[str, ...], _Composed | SettingsError] = {}
        self._built: dict[str, Any] = {}
        self._known: dict[int, tuple[Mapping[str, Any], Any]] = {}
        self._jobs: dict[tuple[str, ...], Job | SettingsError] = {}
        self._first = _firsts(jobs, self._axes)
        self.by_hydra = False
        """Whether something is asked for that only Hydra itself can do: a launcher, a sweeper, a callback, any setting of its own."""
        self._bare: dict[str, Any] | None = None

    def job(self, overrides: Sequence[str]) -> Job:
        """Return the checked job that some overrides describe.

        Raises
        ------
        harness.errors.SettingsError
            Listing every violation.
        """
        wanted = tuple(overrides)
        base = tuple(self._first.get(override, override) for override in wanted)
        if base == wanted:
            return self._checked(wanted)
        try:
            if self._once(tuple(override for override in wanted if override not in self._axes)).interpolated:
                return self._checked(wanted)
            parts = dict(vars(self._checked(base)))
            for place, override in enumerate(wanted):
                if override != base[place]:
                    one = self._checked((*base[:place], override, *base[place + 1 :]))
                    parts |= {name: getattr(one, name) for name in _FREE[override.partition("=")[0]]}
        except SettingsError:
            return self._checked(wanted)  # with all mistakes of this very job
        job = object.__new__(Job)
        vars(job).update(parts, overrides=wanted)  # what its constructor does, a field at a time, several times over
        return job

    def _checked(self, overrides: tuple[str, ...]) -> Job:
        """Check a job by itself, once."""
        if overrides not in self._jobs:
            try:
                plain, choices = self._of(overrides)
                self._jobs[overrides] = _checked(plain, dict(choices), overrides, self._build)
            except SettingsError as error:
                self._jobs[overrides] = error
        found = self._jobs[overrides]
        if isinstance(found, SettingsError):
            raise found
        return found

    def _of(self, overrides: tuple[str, ...]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        axes = [override for override in overrides if override in self._axes]
        rest = tuple(override for override in overrides if override not in self._axes)
        composed = self._once(rest)
        if axes and not composed.interpolated:
            try:
                self._set([axis for axis in axes if axis.startswith("dataset.")], composed.asked)
                return self._set(axes, composed.plain), composed.choices
            except KeyError:
                for axis in axes:
                    self._once((*rest, axis))  # Hydra says what is wrong in terms of what was typed
        if axes:
            composed = self._once(overrides)
        return composed.plain, composed.choices

    def _set(self, axes: Sequence[str], plain: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a copy with some values set; KeyError where there is no such key."""
        found = dict(plain)
        for axis in axes:
            key, value = self._axes[axis]
            *groups, name = key.split(".")
            node = found
            for group in groups:
                node[group] = dict(node[group]) if isinstance(node[group], Mapping) else {}
                node = node[group]
            if name not in node:
                raise KeyError(key)
            node[name] = value
        return found

    def _once(self, overrides: tuple[str, ...]) -> _Composed:
        if overrides not in self._composed:
            try:
                with interrupts.held():
                    self._composed[overrides] = self._compose(overrides)
            except SettingsError as error:
                self._composed[overrides] = error
        found = self._composed[overrides]
        if isinstance(found, SettingsError):
            raise found
        return found

    def _compose(self, overrides: tuple[str, ...]) -> _Composed:
        config = _compose([*overrides, *self._where])
        _same_keys(config)
        self.by_hydra |= self._of_hydra(config, overrides)
        choices = {group: str(option) for group, option in config.hydra.runtime.choices.items() if group in GROUPS}
        chosen = config
        if choices["dataset"] == "auto":
            modality = config.model.get("modality")
            option = config.dataset.by_modality.get(modality)
            if option is None:
                raise SettingsError(f"dataset=auto knows no dataset for model.modality={modality!r}; choose one with dataset=…")
            chosen = _compose([*(o for o in overrides if o != "dataset=auto"), *self._where, f"dataset={option}"])
            choices["dataset"] = option
        plain = _plain(chosen)
        return _Composed(plain, choices, plain if chosen is config else _plain(config), plain != _plain(chosen, resolve=False))

    def _of_hydra(self, config: DictConfig, overrides: Sequence[str]) -> bool:
        """Say whether a job asks for something of Hydra's own: by an override, or in a file of the user's."""
        if any(override.lstrip("+~").startswith(("hydra.", "hydra/")) for override in overrides):
            return True
        if not self._where:
            return False
        if self._bare is None:
            self._bare = _hydras(_compose([]))
        return _hydras(config) != self._bare

    def _build(self, node: Mapping[str, Any], *, key: str) -> Any:
        """Return what a node describes; equal nodes are built once, which they bear because building is free of work and of state."""
        known = self._known.get(id(node))
        if known is not None and known[0] is node:
            return known[1]
        same = json.dumps([key, node], default=str)
        if same not in self._built:
            self._built[same] = build(node, key=key)
        self._known[id(node)] = node, self._built[same]
        return self._built[same]


def _hydras(config: DictConfig) -> dict[str, Any]:
    """Return Hydra's own part of a configuration without what differs between jobs in any case, and what a sweep by name says for us."""
    found: dict[str, Any] = OmegaConf.to_container(config.hydra, resolve=False)  # type: ignore[assignment]
    for key in ("overrides", "runtime", "mode", "searchpath"):
        found.pop(key)
    found["sweeper"].pop("params", None)  # which another sweeper need not have
    found["job"].pop("override_dirname")
    return found


def _plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Return a configuration as plain values, without Hydra's own part."""
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        return OmegaConf.to_container(ours, resolve=resolve, throw_on_missing=False)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise SettingsError(" ".join(str(error).split())) from error


def _plain_axes(jobs: Sequence[Sequence[str]]) -> dict[str, tuple[str, Any]]:
    """Return, by override, key and value of what varies between jobs and needs no composing: plain values of settings of their own."""
    columns = [dict.fromkeys(column) for column in zip(*jobs, strict=True)]
    keys = {override.partition("=")[0].lstrip("+~") for column in columns for override in column}
    found: dict[str, tuple[str, Any]] = {}
    parser = OverridesParser.create()
    for column in columns:
        key = next(iter(column)).partition("=")[0]
        group = key.partition(".")[0]
        setting = (group in GROUPS and "." in key) or key in _top_level()
        others = {other for other in keys - set(GROUPS) if other.startswith(f"{key}.") or key.startswith(f"{other}.")}
        if len(column) == 1 or not setting or others or key == "model.modality":  # on which dataset=auto depends
            continue
        for override in column:
            value = parser.parse_override(override).value()
            if not isinstance(value, dict) and "${" not in str(value):  # a mapping is merged, and the other is made of other values
                found[override] = key, value
    return found


def _firsts(jobs: Sequence[Sequence[str]], axes: Mapping[str, Any]) -> dict[str, str]:
    """Return, for the values of axes that are checked by themselves, the first value of the same axis."""
    columns = [list(dict.fromkeys(column)) for column in zip(*jobs, strict=True)]
    return {value: column[0] for column in columns if column[0].partition("=")[0] in _FREE for value in column if value in axes}


@cache
def _top_level() -> frozenset[str]:
    """Return the settings of the top level, groups left out."""
    return frozenset(map(str, OmegaConf.load(CONF / "config.yaml"))) - {"defaults", "hydra"}


def with_sweep(arguments: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> tuple[list[str], bool]:
    """Return some arguments with the axes of the committed sweep that they name, and whether they are a sweep; call it inside `composing`.

    ``+sweep=x`` is a file ``sweep/x.yaml`` that sets ``hydra.mode`` and ``hydra.sweeper.params``. Its axes come first, as in Hydra's own
    sweeper, so that what stands on the command line holds.
    """
    named = [argument for argument in arguments if re.match(r"\+{0,2}sweep=", argument)]
    if not named:
        return list(arguments), multirun
    if not named[0].startswith("+"):
        raise SettingsError(f"{named[0]}: write +{named[0]}; there are {', '.join(options('sweep', config_dirs))}")
    with interrupts.held():
        config = _compose([*named, *search_path(config_dirs)])
    multirun = multirun or str(config.hydra.mode).rpartition(".")[2] == "MULTIRUN"
    axes = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    return [*(axes if multirun else []), *arguments], multirun


def _same_keys(config: DictConfig) -> None:
    """Refuse what was added to or removed from the top level: an override that nothing reads looks as if it had worked."""
    ours = _top_level() | set(GROUPS)
    found = {str(key) for key in config} - {"hydra"}
    wrong = [f"{key} is not a setting; `python -m harness --cfg job` shows them all" for key in sorted(found - ours)]
    wrong += [f"{key} must be there; leave out ~{key}" for key in sorted(ours - found)]
    if wrong:
        raise SettingsError(wrong)


def search_path(config_dirs: Sequence[str]) -> list[str]:
    """Return the override that lets Hydra find options in a user's folders too; ours come first."""
    return [f"hydra.searchpath=[{','.join(f'file://{Path(folder).resolve()}' for folder in config_dirs)}]"] if config_dirs else []


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose("config", overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise SettingsError(_plainly(error, overrides)) from error


def _plainly(error: Exception, overrides: Sequence[str]) -> str:
    """Return Hydra's complaint in one or two plain sentences."""
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown[1]
        if key.startswith("dataset.") and not any(o.startswith("dataset=") and o != "dataset=auto" for o in overrides):
            return (
                f"{key} is not a setting of dataset=auto, which has corpus, queries, seed; choose a dataset too, as in dataset=docstrings"
            )
        group, _, name = key.partition(".")
        having = [
            option for option in options(group) if name and f"\n{name}:" in (CONF / group / f"{option}.yaml").read_text(encoding="utf-8")
        ]
        if having:
            chosen = next((o for o in reversed(overrides) if o.startswith(f"{group}=")), f"the {group} chosen")
            able = ", ".join(f"{group}={option}" for option in having)
            return f"{key} is not a setting of {chosen}; these have it: {able}; sweep over it with those alone: a name has one report"
        given = next((o for o in overrides if o.lstrip("+~").startswith(f"{key}=")), key)
        return (
            f"{key} is not a setting (in {given!r}); `python -m harness --cfg job` shows them all; +{key}=… adds one that a plug-in takes"
        )
    option = re.search(r"In '[^']*': Could not find '([^'/]+)/([^']*)'", text)
    if option and option[1] == "hydra":
        group, _, name = option[2].rpartition("/")
        extra = name.partition("_")[0]  # as submitit_slurm
        words = f"hydra/{group}={name} is not an option that is installed"
        return words + (f"; pip install 'embedding-search-harness[{extra}]'" if extra in ("joblib", "submitit") else "")
    if option:
        return f"{option[1]}={option[2]} is not an option; it has {', '.join(options(option[1]))} (see `python -m harness list`)"
    return " ".join(text.split())


def options(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Return the names of a group's options, ours and those in a user's folders."""
    folders = [CONF, *(Path(folder) for folder in config_dirs)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def expand(arguments: Sequence[str], *, multirun: bool) -> list[tuple[str, ...]]:
    """Return the overrides of each job that some arguments name, in Hydra's own order: one job, or the product of the sweeps.

    Raises
    ------
    harness.errors.SettingsError
        When an argument is not ``key=value``, or sweeps where there is no sweep.
    """
    loader = GlobalHydra.instance().config_loader() if GlobalHydra.instance().is_initialized() else None
    try:
        parsed = OverridesParser.create(loader).parse_overrides(list(arguments))
    except HydraException as error:
        raise SettingsError(f"cannot be understood: {' '.join(str(error).split())}; settings are written key=value") from error
    choices: dict[str, list[str]] = {}
    for override in parsed:  # of two for one key the later holds, as in Hydra
        key = override.get_key_element()
        if override.is_sweep_override():
            if not multirun:
                raise SettingsError(f"{override.input_line} names several values; add -m to sweep over them, or write a list as [a,b]")
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif multirun and not override.is_delete():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        else:
            choices[key] = [str(override.input_line)]
    return list(product(*choices.values()))


def _checked(plain: Mapping[str, Any], choices: dict[str, str], overrides: tuple[str, ...], build: Callable[..., Any]) -> Job:
    """Return the job, or raise with everything that is wrong with it."""
    wrong: list[str] = []
    unsupported: list[str] = []

    get = _Reader(plain, wrong)
    built = {}
    for group in ("model", "dataset", "store", "index"):
        node = plain[group]
        missing = [f"{group}.{name} must be given; add {group}.{name}=…" for name, value in node.items() if value == "???"]
        if missing:
            wrong += missing
            continue
        try:
            built[group] = build(node, key=group)
        except SettingsError as error:
            wrong += error.violations
    device = str(plain["device"])
    served = isinstance(built.get("model"), Served)
    try:
        device = devices.resolve(plain["device"] if not served or plain["device"] != "auto" else "cpu")
    except UnsupportedError as error:
        unsupported += error.violations if not served else []
    except SettingsError as error:
        wrong += error.violations
    wrong += _engine_violations(plain["engine"], device, build)
    unsupported += _not_the_services(plain, choices["model"]) if served else []
    unsupported += [] if served or "model" not in built else _not_the_backends(plain, built["model"], choices["model"], device)
    cannot_embed = bool(unsupported)
    name = str(plain["name"])
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        wrong.append(f"name must be one word of letters, digits, '.', '+', '-' or '_', got {name!r}")
    k = get.integers("k", low=1)
    values = {
        "dtype": get.choice("dtype", get_args(Dtype)),
        "attention": get.choice("attention", get_args(Attention)),
        "backend": get.choice("backend", get_args(Backend)),
        "compile": get.choice("compile", (True, False)),
        "metric": get.choice("metric", get_args(Metric)),
        "batch_size": 1 if plain["batch_size"] == "auto" else get.integer("batch_size", low=1, instead="auto"),
        "threads": usable_cores() if plain["threads"] is None else get.integer("threads", low=1),
        "interop_threads": None if plain["interop_threads"] is None else get.integer("interop_threads", low=1),
        "processes": get.integer("processes", low=1, high=64),
        "min_duration_s": get.number("min_duration_s", above=0.0),
        "embed_items": get.integer("embed_items", low=1),
        "seed": get.integer("seed", low=0),
        "timeout_s": get.number("timeout_s", above=0.0),
        "fresh": get.choice("fresh", (True, False)),
        "exclusive": get.choice("exclusive", (True, False, "device")),
    }
    min_requests = get.integer("workload.min_requests", low=1)
    load = {
        "concurrency": get.integers("workload.concurrency", low=1, empty=True),
        "rate": get.numbers("workload.rate", above=0.0),
        "p99_target_s": None if plain["workload"].get("p99_target_s") is None else get.number("workload.p99_target_s", above=0.0),
        "churn_per_s": get.numbers("workload.churn_per_s", above=0.0) if plain["workload"].get("churn_per_s") else (),
        "churn_upserts": get.share("workload.churn_upserts") if "churn_upserts" in plain["workload"] else 0.0,
        "nq": get.integer("workload.nq", low=1, high=16_384),
        "vector_type": get.choice("vector_type", get_args(VectorType)),
        "filter": get.selectivities("filter"),
        "target_recall": get.numbers("target_recall", above=0.0, below=1.0),
    }
    if not (load["concurrency"] or load["rate"] or load["p99_target_s"] or load["churn_per_s"]):
        wrong.append("workload must ask for something: workload.concurrency=[1], workload.rate=[100] or workload.p99_target_s=0.05")
    if load["churn_per_s"] and any(load["filter"]):
        wrong.append(f"workload.churn_per_s goes without a filter, got filter={list(load['filter'])}; leave filter out")
    budget_s = None if plain["budget"] is None else _duration(plain["budget"], wrong)
    if len(built) == 4 and not wrong:
        model, dataset, store, index = built["model"], built["dataset"], built["store"], built["index"]
        held = dict.fromkeys((dataset.modality, dataset.query_modality))
        if not set(held) <= set(modalities(model.modality)):
            wrong.append(
                f"dataset={choices['dataset']} holds {' and '.join(held)}, but model={choices['model']} embeds {model.modality}; "
                f"choose a dataset of {' or '.join(modalities(model.modality))}, or dataset=auto"
            )
        elif dataset.modality == "vectors":
            try:
                model = replace(model, dim=dataset.dim)
                built["model"] = model
            except DataError as error:
                raise SettingsError(str(error)) from error
        rows = dataset.corpus
        if rows is not None:
            if values["batch_size"] > rows:
                wrong.append(
                    f"batch_size must be ≤ dataset.corpus={rows}, got {values['batch_size']}; choose a smaller one or a larger corpus"
                )
            if max(k) > rows:
                wrong.append(f"k must be ≤ dataset.corpus={rows}, got {max(k)}")
            wrong += index.violations(rows=rows, dim=model.dim, k=k)
        assumed = max(*k, 1_000) if rows is None else rows  # until the files have been counted
        unsupported += store.violations(
            index=index,
            metric=values["metric"],
            dim=model.dim,
            rows=assumed,
            k=k,
            vector_type=load["vector_type"],
            filtered=any(load["filter"]),
        )
        if load["churn_per_s"]:
            unsupported += _not_changeable(store, choices["store"])
            if values["metric"] == "ip" and not model.normalized:
                wrong.append(
                    "workload.churn_per_s looks for rows by their own vectors, which are not the nearest under metric=ip where lengths "
                    "differ; use metric=cosine or metric=l2"
                )
    if wrong:
        raise SettingsError([*wrong, *unsupported])
    return Job(
        overrides=overrides,
        name=name,
        results=str(plain["results"]),
        choices=choices,
        nodes={group: plain[group] for group in GROUPS},
        **built,
        device=device,
        k=k,
        **load,
        min_requests=min_requests,
        budget_s=budget_s,
        find_batch_size=plain["batch_size"] == "auto",
        unsupported=tuple(unsupported),
        cannot_embed=cannot_embed,
        **values,
    )


def _engine_violations(node: Mapping[str, Any], device: str, build: Callable[..., Any]) -> list[str]:
    """Return what is wrong with who makes the vectors of a corpus, or missing for it."""
    try:
        engine: CorpusEngine = build(node, key="engine")
    except SettingsError as error:
        return list(error.violations)
    return engine.violations(device=device)


def _not_changeable(store: Store, name: str) -> list[str]:
    """Return that a store cannot change its rows while they are searched, naming those that can."""
    if isinstance(store, Changeable):
        return []
    others = {option: OmegaConf.load(CONF / "store" / f"{option}.yaml") for option in options("store")}
    able = [option for option, node in others.items() if isinstance(build(OmegaConf.to_container(node), key="store"), Changeable)]  # type: ignore[arg-type]
    return [f"store={name} cannot change rows while they are searched, which workload.churn_per_s needs; these can: {', '.join(able)}"]


def _not_the_backends(plain: Mapping[str, Any], model: Model, name: str, device: str) -> list[str]:
    """Return what is asked for that the runtime which is to compute cannot do with this model, or lacks here."""
    backend, dtype = plain["backend"], plain["dtype"]
    if backend not in get_args(Backend):  # told elsewhere
        return []
    if backend == "torch":
        return ["dtype=int8 needs backend=onnx or backend=openvino; torch computes in fp32, fp16 or bf16"] if dtype == "int8" else []
    if isinstance(model, Exportable) and backend in model.backends:
        return model.refused(backend=backend, device=device, dtype=dtype, attention=plain["attention"], compiled=plain["compile"])
    return [f"backend={backend}: model={name} computes with torch alone; take backend=torch, or one of {', '.join(_exportable(backend))}"]


def _exportable(backend: str) -> list[str]:
    """Return the model options that a runtime besides torch can run."""
    nodes = {option: OmegaConf.load(CONF / "model" / f"{option}.yaml") for option in options("model")}
    whole = {option: OmegaConf.to_container(node) for option, node in nodes.items() if "_target_" in node and "defaults" not in node}
    models = {option: build(node, key="model") for option, node in whole.items() if "???" not in map(str, node.values())}  # type: ignore[arg-type, union-attr]
    return [option for option, model in models.items() if isinstance(model, Exportable) and backend in model.backends]


def _not_the_services(plain: Mapping[str, Any], model: str) -> list[str]:
    """Return what is asked for that a model behind an endpoint decides by itself; what runs here is a client, on the CPU."""
    free: dict[str, tuple[Any, ...]] = {
        "device": ("auto", "cpu"),
        "dtype": ("fp32",),
        "attention": ("auto",),
        "compile": (False,),
        "backend": ("torch",),
    }
    return [
        f"{key}={str(plain[key]).lower()}: model={model} is served by an endpoint, which decides that itself; leave {key} out"
        for key, values in free.items()
        if plain[key] not in values
    ]


class _Reader:
    """Reads values of a stated type and range out of the configuration, noting what is wrong instead of raising."""

    def __init__(self, plain: Mapping[str, Any], wrong: list[str]) -> None:
        self._plain, self._wrong = plain, wrong

    def _value(self, key: str) -> Any:
        found: Any = self._plain
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def integer(self, key: str, *, low: int, high: int | None = None, instead: str | None = None) -> int:
        value = self._value(key)
        if type(value) is not int or value < low or (high is not None and value > high):
            kind = "a whole number" if instead is None else f"{instead} or a whole number"
            self._wrong.append(f"{key} must be {kind} " + (f"≥ {low}" if high is None else f"in [{low}, {high}]") + f", got {value!r}")
            return low
        return value

    def integers(self, key: str, *, low: int, empty: bool = False) -> tuple[int, ...]:
        value = self._value(key)
        values = value if isinstance(value, list) else [value]
        if not (values or empty) or any(type(v) is not int or v < low for v in values) or len(set(values)) < len(values):
            self._wrong.append(f"{key} must be a list of different whole numbers ≥ {low}, got {value!r}")
            return (low,)
        return tuple(values)

    def number(self, key: str, *, above: float) -> float:
        value = self._value(key)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= above:
            self._wrong.append(f"{key} must be a number > {above:g}, got {value!r}")
            return 1.0
        return float(value)

    def numbers(self, key: str, *, above: float, below: float = math.inf) -> tuple[float, ...]:
        value = self._value(key)
        values = value if isinstance(value, list) else [value]
        if any(type(v) not in (int, float) or not above < v < below for v in values) or len(set(values)) < len(values):
            limit = f"> {above:g}" if below == math.inf else f"between {above:g} and {below:g}"
            self._wrong.append(f"{key} must be a list of different numbers {limit}, got {value!r}")
            return ()
        return tuple(map(float, values))

    def share(self, key: str) -> float:
        value = self._value(key)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            self._wrong.append(f"{key} must be a number in [0, 1], got {value!r}")
            return 0.0
        return float(value)

    def selectivities(self, key: str) -> tuple[float | None, ...]:
        value = self._value(key)
        values = value if isinstance(value, list) else [value]
        fine = [v is None or (type(v) in (int, float) and 0 < v <= 1 and (v * PARTS).is_integer()) for v in values]
        if not values or not all(fine) or len(set(values)) < len(values):
            self._wrong.append(
                f"{key} must be a list of null (no filter) and different shares of the rows from {1 / PARTS:g} to 1 "
                f"in steps of {1 / PARTS:g}, e.g. [null,0.01,0.5], got {value!r}"
            )
            return (None,)
        return tuple(None if v is None else float(v) for v in values)

    def choice(self, key: str, allowed: Sequence[Any]) -> Any:
        value = self._value(key)
        if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
            self._wrong.append(
                f"{key} must be one of {', '.join(str(a).lower() if isinstance(a, bool) else str(a) for a in allowed)}, got {value!r}"
            )
            return allowed[0]
        return value


_DURATION = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: Any, wrong: list[str]) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", str(value))
    if not found or float(found[1]) == 0:
        wrong.append(f"budget must be a time such as 90s, 10m or 2h, got {value!r}")
        return None
    return float(found[1]) * _DURATION[found[2]]
