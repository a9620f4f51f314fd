"""A corpus through Ray Data: a pool of workers, each with the model, here or on the machines of a cluster.

The corpus is cut into shards of whole canonical batches, so that a vector does not depend on how many workers there are. Shards stream
through the pool (`ray.data.Dataset.map_batches` over actors; how many are under way is Ray Data's own back-pressure) and come back to this
process, which writes each down, checked, before it counts (`harness.shards`). A run that was killed goes on with what is there. At the end
they are handed over in order.

The items themselves do not travel: workers read them from the cache's folder, where the weights are too, so a cluster's machines need to
see the same one ($HARNESS_CACHE on a shared file system), and to have this package and the model's libraries installed: a worker that has
other source, other versions or other weights than the process that asks refuses to start.

What is started here listens on loopback only, has no dashboard, reports no usage, and keeps its files in a folder of its own, which
goes with it. Ray is imported in this file and in no other.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import sys
import time
import warnings
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from harness.corpus import whole_batches
from harness.errors import HarnessError, SettingsError
from harness.fingerprint import source_of, usable_cores, versions_used_by
from harness.interfaces import CorpusWork, Part
from harness.shards import Shards, packed
from harness.workspace import workspace

START_S = 600.0
"""How long all workers may take to load the model before the first shard is handed out."""
RESTARTS = 2
"""A worker that dies is started again so often, and the shard it was at is tried again as often; then the run ends."""
AHEAD = 2
"""Shards at each worker, the one in work included, so that none waits for the next."""
STORE_BYTES = 256 * 2**20
"""Shared memory for shards on their way, at least."""
LONGEST_FOLDER = 44
"""Characters: Ray makes sockets below its folder, 62 characters longer, and a socket's path has 107 at most."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
PASSED_ON = ("HARNESS_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY")
QUIET: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns that this will change
}
OWN: Mapping[str, str] = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what keeps to loopback, on Linux too
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # or workers stand back, by 15, behind whatever else runs
    "RAY_enable_worker_prestart": "0",  # workers that nobody asked for, one for each core
    "RAY_prestart_worker_first_driver": "0",
}
"""For a cluster that is started here, besides; read when Ray is first imported."""


@dataclass(frozen=True)
class RayData:
    """Settings of ``engine=ray``.

    Parameters
    ----------
    workers : int
        Processes that embed, each with a model of its own; on GPUs one for each.
    shard_items : int
        Documents a shard, rounded down to whole batches, one batch at least.
    threads : int, optional
        CPU threads a worker may use; None for the run's threads (``OMP_NUM_THREADS``), divided by the workers where they share a machine.
    address : str, optional
        ``host:port`` of a running cluster; None to start one on this machine.

    Raises
    ------
    harness.errors.SettingsError
        When a value is outside its range; names every one that is.
    """

    workers: int = 2
    shard_items: int = 1024
    threads: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        found = []
        for name, most in (("workers", 4096), ("shard_items", 1_000_000), ("threads", 4096)):
            value = getattr(self, name)
            if name == "threads" and value is None:
                continue
            if type(value) is not int or not 1 <= value <= most:
                found.append(f"engine.{name} must be a whole number in [1, {most}], got {value!r}")
        if self.address is not None and (not isinstance(self.address, str) or not self.address.strip()):
            found.append(f"engine.address must be host:port of a running Ray cluster, or null to start one here, got {self.address!r}")
        if found:
            raise SettingsError(found)

    def violations(self, *, device: str) -> list[str]:
        """Whether Ray is installed, and whether workers can share the device."""
        found = []
        if find_spec("ray") is None:  # asked for a part of it, this would import it
            found.append("engine=ray needs Ray Data, which is not installed; pip install 'embedding-search-harness[ray]'")
        if not (device == "cpu" or device.startswith("cuda")):
            found.append(f"engine=ray has workers on cpu and cuda, got device={device}; use engine=local")
        return found

    def threads_each(self) -> int:
        """Return how many CPU threads a worker may use."""
        if self.threads is not None:
            return self.threads
        run = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
        return run if self.address is not None else max(1, run // self.workers)

    def embed(
        self, work: CorpusWork, keep: Callable[[Part], None], *, device: str, shards: Path, told: Callable[[int], None]
    ) -> Mapping[str, Any]:
        """Have the missing shards made, then hand all of them over in order; see `harness.interfaces.CorpusEngine`.

        Raises
        ------
        harness.errors.HarnessError
            When the cluster does not start or is too small, or a worker fails for good.
        """
        runs = whole_batches(work, self.shard_items)
        threads, kind = self.threads_each(), device.partition(":")[0]
        # Threads and device can change the last digits, so what was made with others stays apart.
        stored = Shards(shards / f"{kind}-{threads}-{len(runs[0])}", [len(run) for run in runs], work.dim)
        missing = stored.missing()
        waiting = sum(len(runs[number]) for number in missing)
        done = len(work.numbers) - waiting
        told(done)
        about: dict[str, Any] = {
            "engine": "ray",
            "workers": self.workers,
            "threads_each": threads,
            "shards": len(runs),
            "found": len(runs) - len(missing),
            "items": waiting,
            "seconds": 0.0,
        }
        if missing:
            weights = work.weights()
            work.release()
            began = ended = 0.0
            hosts = set()
            with self._cluster(kind, threads, work.dim) as ray:
                about["ray"] = str(ray.__version__)
                for made in self._made(ray, work, {number: runs[number] for number in missing}, kind, threads, weights):
                    stored.keep(made["shard"], made["body"])
                    ended = time.time()
                    began = min(began, made["began"]) if began else made["began"]
                    hosts.add(made["host"])
                    done += len(runs[made["shard"]])
                    told(done)
            about |= {"seconds": ended - began, "machines": len(hosts)}
        for number, run in enumerate(runs):
            vectors, truncated = stored.read(number)
            keep(Part(run, vectors, truncated))
        return about

    @contextmanager
    def _cluster(self, kind: str, threads: int, dim: int) -> Iterator[Any]:
        """Yield Ray, connected to the cluster, or to one that lasts as long as the body."""
        variables = {**dict.fromkeys(THREADS, str(threads)), **{name: os.environ[name] for name in PASSED_ON if name in os.environ}}
        with ExitStack() as held:
            here = {**QUIET, **variables, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            if self.address is None:
                here |= {**OWN, "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # or Ray leaves one in the user's home
            held.enter_context(_variables(here))
            import ray
            import ray.data

            if self.address is None:
                folder = held.enter_context(_short_folder())
                shard_bytes = self.shard_items * dim * 4
                how: dict[str, Any] = {
                    "num_cpus": self.workers * threads + 1,  # one is left for what Ray Data does beside the workers
                    "num_gpus": None if kind == "cuda" else 0,
                    "include_dashboard": False,
                    "object_store_memory": max(STORE_BYTES, 2 * AHEAD * self.workers * shard_bytes),
                    "_temp_dir": str(folder),
                }
            else:
                how = {"address": self.address, "runtime_env": {"env_vars": variables}}
            try:
                ray.init(**how, logging_level=logging.WARNING, log_to_driver=False)
            except Exception as error:
                raise HarnessError(f"engine=ray: {self._where()} cannot be had: {_said(error)}") from error
            held.callback(ray.shutdown)
            cluster: Any = ray
            has = cluster.cluster_resources()
            needs = {"CPU": self.workers * threads, **({"GPU": self.workers} if kind == "cuda" else {})}
            few = [f"{has.get(name, 0):g} {name}s of {wanted}" for name, wanted in needs.items() if has.get(name, 0) < wanted]
            if few:
                raise HarnessError(f"engine=ray: {self._where()} has {' and '.join(few)}; lower engine.workers or engine.threads")
            yield cluster

    def _where(self) -> str:
        return "a cluster on this machine" if self.address is None else f"the cluster at engine.address={self.address}"

    def _made(
        self, ray: Any, work: CorpusWork, runs: Mapping[int, Sequence[int]], kind: str, threads: int, weights: str
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the shards as they are made, in any order."""
        import pyarrow as pa

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = START_S
        blocks = [
            pa.table({"shard": pa.array([number]), "numbers": pa.array([array("q", run).tobytes()], pa.large_binary())})
            for number, run in runs.items()
        ]
        pool = ray.data.ActorPoolStrategy(size=min(self.workers, len(blocks)), max_tasks_in_flight_per_actor=AHEAD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)  # the last two have no parameters of their own yet
            made = ray.data.from_arrow(blocks).map_batches(
                _Worker,
                # A worker sees its own GPU alone.
                fn_constructor_args=(work.elsewhere("cuda:0" if kind == "cuda" else kind), _made_with(work, weights)),
                batch_size=1,  # a row is a shard
                batch_format="pyarrow",
                compute=pool,
                num_cpus=threads,
                num_gpus=1 if kind == "cuda" else None,
                max_restarts=RESTARTS,
                max_task_retries=RESTARTS,
            )
        try:
            for table in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                yield from table.to_pylist()
        except (ray.exceptions.RayError, OSError) as error:
            raise HarnessError(f"engine=ray: a worker failed: {_said(error)}") from error


class _Worker:
    """One process of the pool: loads the model once, then turns shards of numbers into shards of vectors."""

    def __init__(self, work: CorpusWork, made_with: Mapping[str, str]) -> None:
        here = _made_with(work, work.weights())
        unlike = sorted(name for name in {*here, *made_with} if here.get(name) != made_with.get(name))
        if unlike:
            named = ", ".join(unlike[:5]) + (" …" if len(unlike) > 5 else "")
            raise HarnessError(
                f"{platform.node()} has other source or versions of {named} than the machine that asks; install the same there"
            )
        self._work = work

    def __call__(self, table: Any) -> Any:
        """Embed one shard; the times are the wall clock's, because workers may be on several machines."""
        import pyarrow as pa

        found: dict[str, list[Any]] = {"shard": [], "body": [], "began": [], "host": []}
        for row in table.to_pylist():
            began = time.time()
            parts = list(self._work.embed(array("q", row["numbers"])))
            body = packed(np.concatenate([part.vectors for part in parts]), sum(part.truncated for part in parts))
            for name, value in (("shard", row["shard"]), ("body", body), ("began", began), ("host", platform.node())):
                found[name].append(value)
        return pa.table({**found, "body": pa.array(found["body"], pa.large_binary())})


def _made_with(work: CorpusWork, weights: str) -> dict[str, str]:
    """Return what this process makes vectors with: the source of each module, the version of each library, and the weights.

    To be asked once Ray has been imported, which brings some libraries along in versions of its own.
    """
    return {**source_of(work.modules), **versions_used_by(work.modules), "the model's weights": weights}


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which what is started meanwhile inherits."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _short_folder() -> Iterator[Path]:
    """Yield a folder for Ray's files whose name is short enough for the sockets in it, and remove it afterwards."""
    with workspace() as folder:
        if len(str(folder)) <= LONGEST_FOLDER:
            yield folder
            return
    with workspace(Path("/tmp")) as short:  # noqa: S108 - where Ray itself goes; the folder is for its owner alone
        yield short


def _said(error: BaseException) -> str:
    """Return what went wrong in one line: of a worker's failure the cause, not the frames that it came through.

    Ray says of some that they come from an exception of its own without words, which is no cause.
    """
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, BaseException) and str(inner).strip():
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no words'}"
