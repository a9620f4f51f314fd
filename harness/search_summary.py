"""A search cell's figures: recall, latency, rate and quality of every operating point, and what loading the index took.

As `harness.summary` does for embed cells: timings replicate over processes, builds over builds, recall and quality over queries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.baseline import bm25
from harness.churn_cell import GIVE_UP_S
from harness.interfaces import Data, Ids
from harness.metrics import labels as label_metrics
from harness.metrics.recall import recall_at_k, strict_recall_at_k
from harness.metrics.similarity import Neighbours
from harness.records import Better, Measured, Point
from harness.statistics import mean_over_queries, over_processes, samples_for_percentile
from harness.summary import Outcome, Summary, measured, percentile, single

LABEL_DEPTH = 10
"""The k of nDCG@k and label recall@k; 10 is the field's habit (BEIR, MTEB)."""


def of_search(
    outcomes: Sequence[Outcome],
    memory: Mapping[str, Any],
    *,
    vectors: Path,
    truth: Mapping[float | None, Neighbours],
    data: Data,
    random_weights: bool,
    exact: bool,
) -> Summary:
    """Return the figures of a search cell from its replicates and its memory pass.

    Parameters
    ----------
    vectors : Path
        Folder of the source vectors, from which distances are computed again for ties.
    truth : mapping of Neighbours
        Exact neighbours of all queries, by the filter's selectivity; None is without a filter.
    data : Data
        For the relevance labels.
    random_weights : bool
        Vectors of random networks are collapsed: quality is then null.
    exact : bool
        Whether the index finds the exact neighbours of these vectors by construction.
    """
    corpus = np.load(vectors / "corpus.npy", mmap_mode="r")
    asked = np.asarray(outcomes[0].result["asked"])
    queries = np.load(vectors / "queries.npy")[asked]
    qrels = None if data.qrels is None else {new: data.qrels[old] for new, old in enumerate(asked.tolist()) if old in data.qrels}
    nearest = {share: replace(found, ids=found.ids[asked], scores=found.scores[asked]) for share, found in truth.items()}

    def build(name: str, unit: str, better: Better = "lower") -> Measured:
        return measured(over_processes([outcome.result[name] for outcome in outcomes], unit="build"), unit, better)

    def whether_told(name: str, reason: str) -> Measured:
        told = all(outcome.result[name] for outcome in outcomes)
        return build(name, "bytes") if told else Measured(None, "bytes", "lower", reason=reason)

    scores: dict[str, Any] = {}  # of each query, so that two models can be compared query by query
    metrics = {
        "insert_s": build("insert_s", "s"),
        "build_s": build("build_s", "s"),
        "ready_s": build("ready_s", "s"),
        **_store_times(outcomes),
        "index_bytes": whether_told("index_bytes", "the store does not tell the size of its index"),
        "server_rss_before_bytes": whether_told("server_rss_before_bytes", "no server whose memory can be seen"),
        "server_rss_bytes": whether_told("server_rss_bytes", "no server whose memory can be seen"),
        "first_query_s": measured(over_processes([outcome.result["first_query_s"] for outcome in outcomes]), "s", "lower"),
        "peak_rss_bytes": single(memory["peak_rss_bytes"], "bytes", "the store runs in a process that cannot be seen from here"),
        **_quality(nearest[None].ids, qrels, random_weights, suffix="_exact", keep=scores),
        f"ndcg_at_{LABEL_DEPTH}_bm25": _baseline(data, qrels, asked),
    }
    samples: dict[str, Any] = {
        f"{name}_{i}": values
        for i, outcome in enumerate(outcomes)
        for name, values in outcome.samples.items()
        if name.startswith(("round_trip_s_", "floor_s_"))
    }
    samples |= {  # of each build, so that runs can be compared by what was repeated
        f"each_{name}": [outcome.result[name] for outcome in outcomes]
        for name in ("insert_s", "build_s", "ready_s", "index_bytes", "first_query_s")
        if metrics[name].value is not None
    }
    points = []
    caveats = _search_caveats(outcomes)
    for number, point in enumerate(outcomes[0].result["points"]):
        k, share, changing = point["k"], point["selectivity"], point["churn_per_s"] is not None
        answers = [] if changing else [outcome.samples[f"ids_{number}"] for outcome in outcomes]
        if changing:  # of the moment of each search, see harness.churn
            recall, strict = (_over_builds([outcome.samples[f"{name}_{number}"] for outcome in outcomes]) for name in ("recall", "strict"))
        else:
            recall = np.mean([recall_at_k(ids, nearest[share], k=k, queries=queries, corpus=corpus) for ids in answers], axis=0)
            strict = np.mean([strict_recall_at_k(ids, nearest[share], k=k) for ids in answers], axis=0)
        latencies = [outcome.samples[f"latency_s_{number}"] for outcome in outcomes]
        same = [outcome.result["points"][number] for outcome in outcomes]
        rates = [one["count"] * outcomes[0].result["nq"] / one["wall_s"] for one in same]
        figures = {
            "recall": measured(mean_over_queries(recall, exact=exact and not changing), "ratio", "higher"),
            "recall_strict": measured(mean_over_queries(strict), "ratio", "higher"),
            "search_latency_p50_s": percentile(latencies, 0.5),
            "search_latency_p95_s": percentile(latencies, 0.95),
            "search_latency_p99_s": percentile(latencies, 0.99),
            "round_trip_p50_s": percentile([outcome.samples[f"round_trip_s_{k}"] for outcome in outcomes], 0.5),
            "floor_p50_s": percentile([outcome.samples[f"floor_s_{k}"] for outcome in outcomes], 0.5),
            "qps": measured(over_processes(rates), "1/s", "higher"),
            **_load_figures(same),
            **_churn_figures(outcomes, number),
            **_quality(
                answers[0] if answers and k >= LABEL_DEPTH else None,
                qrels,
                random_weights,
                others=answers[1:],
                hidden="the filter hides relevant documents" if share else "relevant documents come and go" if changing else None,
                keep=scores,
                number=f"_{number}",
            ),
        }
        if point["concurrency"] is None and point["rate_per_s"] is None and not all(one["highest_rate_per_s"] for one in same):
            figures |= {
                name: Measured(None, figures[name].unit, figures[name].better, reason="of no one rate: none met workload.p99_target_s")
                for name in ("search_latency_p50_s", "search_latency_p95_s", "search_latency_p99_s", "qps")
            }
        points.append(
            Point(
                k=k,
                concurrency=point["concurrency"],
                search_params=point["search_params"],
                metrics=figures,
                rate_per_s=point["rate_per_s"],
                churn_per_s=point["churn_per_s"],
                nq=outcomes[0].result["nq"],
                selectivity=share,
                target_recall=point["target_recall"],
            )
        )
        samples[f"recall_{number}"] = recall
        samples[f"each_qps_{number}"] = rates
        samples |= {f"latency_s_{number}_{i}": values for i, values in enumerate(latencies)}
        for name in ("change_s", "fresh_s", "deletion_s") if changing else ():
            samples |= {f"{name}_{number}_{i}": outcome.samples[f"{name}_{number}"] for i, outcome in enumerate(outcomes)}
        caveats += tuple(caveat for caveat in _load_caveats(point, same) if caveat not in caveats)
    caveats += tuple(_late_caveat(outcomes))
    points += [
        _not_reached(one, points, outcomes[0].result["nq"]) for one in outcomes[0].result["tuned"] or () if one["search_params"] is None
    ]
    engine = {name: outcomes[0].result[name] for name in ("version", "server", "ready", "floor_index", "tuned")}
    return Summary(metrics, tuple(points), caveats, samples | scores, engine)


_STORE_TIMES = ("files", "import", "flush", "build", "compact", "load", "wait")
"""What `harness.interfaces.Ready.times` may tell apart."""


def _store_times(outcomes: Sequence[Outcome]) -> dict[str, Measured]:
    found = {}
    for name in _STORE_TIMES:
        seconds = [outcome.result["ready"]["times"].get(name) for outcome in outcomes]
        told = all(value is not None for value in seconds)
        found[f"store_{name}_s"] = (
            measured(over_processes(seconds, unit="build"), "s", "lower")
            if told
            else Measured(None, "s", "lower", reason="the store does not tell this part apart")
        )
    return found


def _load_figures(same: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
    """Return what is known of a load besides latency and rate; null where one client asked one thing after the other."""
    alone = same[0]["concurrency"] == 1
    enough = samples_for_percentile(0.99)
    unsupported = min(one["count"] for one in same) < enough
    highest = f"p99 needs {enough} samples" if unsupported else "not looked for, or no rate met workload.p99_target_s"
    quiet = "one client asks one thing after the other"

    def of(name: str, unit: str, better: Better, reason: str) -> Measured:
        values = [one[name] for one in same]
        return measured(over_processes(values), unit, better) if all(values) else Measured(None, unit, better, reason=reason)

    def total(values: Sequence[float], unit: str) -> Measured:
        if alone:
            return Measured(None, unit, "lower", reason="an error ends the cell where one client asks")
        return Measured(float(sum(values)), unit, "lower", n=len(values), reason="a count, no interval")

    return {
        "errors": total([sum(one["errors"].values()) for one in same], "requests"),
        "timeouts": total([one["timeouts"] for one in same], "requests"),
        "client_cpu": of("client_cpu", "cores", "none", quiet if alone else "clients and engine share a process"),
        "send_lag_p99_s": of("send_lag_p99_s", "s", "lower", "a closed loop has no time at which a request is due"),
        "max_rate_at_p99_per_s": (
            Measured(None, "1/s", "higher", reason=highest) if unsupported else of("highest_rate_per_s", "1/s", "higher", highest)
        ),
        "distance_computations": of("distance_computations", "distances", "lower", "the store does not count them"),
    }


def _over_builds(scores: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return each query's mean over the builds that could tell a score, NaN meaning that one could not; without queries that none could."""
    table = np.stack(scores)
    told = ~np.isnan(table)
    some = told.any(axis=0)
    return np.asarray(np.where(told, table, 0.0).sum(axis=0)[some] / told.sum(axis=0)[some], dtype=np.float64)


def _churn_figures(outcomes: Sequence[Outcome], number: int) -> dict[str, Measured]:
    """Return what is known of the changes; nothing where rows stayed as they were."""
    same = [outcome.result["points"][number] for outcome in outcomes]
    if same[0]["churn"] is None:
        return {}

    def of(name: str, q: float, reason: str) -> Measured:
        samples = [outcome.samples[f"{name}_{number}"] for outcome in outcomes]
        return percentile(samples, q) if all(map(len, samples)) else Measured(None, "s", "lower", reason=reason)

    none = "no row came or went: workload.churn_upserts=1"
    returned = sum(one["churn"]["returned"] for one in same)
    gone = sum(one["churn"]["gone"] for one in same)
    return {
        "changes_per_s": measured(over_processes([one["churn"]["changes"] / one["wall_s"] for one in same]), "1/s", "none"),
        "change_p50_s": of("change_s", 0.5, none),
        "freshness_p50_s": of("fresh_s", 0.5, none),
        "freshness_p95_s": of("fresh_s", 0.95, none),
        "deletion_p50_s": of("deletion_s", 0.5, none),
        "deletion_p95_s": of("deletion_s", 0.95, none),
        "deleted_share": Measured(gone / returned if returned else None, "ratio", "lower", n=returned, reason="a count, no interval"),
    }


_SATURATED = 0.8
"""Share of a core above which a client process, which has one interpreter lock, is itself what limits the rate."""
_LATE = 0.1
"""A p99 of the send lag above this share of the median latency, and above `_LATE_S`, is told."""
_LATE_S = 0.002
_SLIPPED = 0.05
"""An open loop whose answers fall behind its schedule by more than this share of its length is not kept up with."""


def _load_caveats(point: Mapping[str, Any], same: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    load = "the highest rate" if point["rate_per_s"] is None else f"{point['rate_per_s']:g} requests/s"
    load = f"{point['concurrency']} clients" if point["concurrency"] else load
    busiest = max((one["client_cpu"] or 0.0 for one in same), default=0.0)
    if busiest > _SATURATED:
        yield (
            "saturated_client",
            f"At {load} a client process was busy for {busiest:.0%} of the time: the rate is the client's limit, not the store's.",
        )
    if any(one["errors"] for one in same):
        texts = {text: sum(one["errors"].get(text, 0) for one in same) for one in same for text in one["errors"]}
        yield "request_errors", f"At {load} requests failed: " + "; ".join(f"{times} × {text}" for text, times in texts.items()) + "."
    offered, slip = point["rate_per_s"], max(one["slip"] for one in same)
    if offered and slip > _SLIPPED:
        yield (
            "overload",
            f"{_offered(point)}, {offered / (1 + slip):.3g}/s were answered: the queue grows, and latencies with the length of the run.",
        )
    if point["churn_per_s"] is not None:
        yield from _change_caveats(point, same)


def _offered(point: Mapping[str, Any]) -> str:
    """Return the words by which an operating point's own overload begins, so that those at the same rate can be told apart."""
    told = [f"k={point['k']}", *(f"{name}={value}" for name, value in sorted(point["search_params"].items()))]
    told += [f"{name}={point[name]:g}" for name in ("selectivity", "churn_per_s", "target_recall") if point[name] is not None]
    return f"Of {point['rate_per_s']:g} requests/s offered at {' '.join(told)}"


def overloaded(caveats: Iterable[tuple[str, str]], point: Point) -> bool:
    """Return whether a record's caveats say that an operating point's rate was not kept up with.

    Those of earlier versions name the rate alone, and count for each operating point at that rate.
    """
    if point.rate_per_s is None:
        return False
    own, any_at_rate = _offered(vars(point)), f"Of {point.rate_per_s:g} requests/s offered "
    texts = [text for code, text in caveats if code == "overload" and text.startswith(any_at_rate)]
    return any(text.startswith(f"{own}, ") or not text.startswith(f"{any_at_rate}at ") for text in texts)


def _change_caveats(point: Mapping[str, Any], same: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Tell of changes that fell behind their rate, and of those that no search showed."""
    found = [one["churn"] for one in same]
    if max(one["changes_slip"] for one in found) > _SLIPPED:
        done = sum(one["changes"] for one in found) / sum(one["wall_s"] for one in same)
        text = f"Of {point['churn_per_s']:g} changes/s asked for {done:.3g}/s were made: one after the other, the store takes longer."
        yield "changes_behind", text
    if unseen := sum(one["unseen"] for one in found):
        yield (
            "unseen_changes",
            f"At {point['churn_per_s']:g} changes/s {unseen} of {sum(one['looked_for'] for one in found)} rows that came or went did "
            f"not show in a search for their own vector within {GIVE_UP_S:g} s, by which they count as that late: the store has lost them, "
            "lags, or rows as near stand before them.",
        )


def _late_caveat(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """Tell, once for all open loops, that requests left late, unless the store did not keep up: then they wait for each other."""
    late_s = [
        lag
        for outcome in outcomes
        for number, one in enumerate(outcome.result["points"])
        if (lag := one["send_lag_p99_s"] or 0.0) > max(_LATE_S, _LATE * float(np.median(outcome.samples[f"latency_s_{number}"])))
        and one["slip"] <= _SLIPPED
    ]
    if late_s:
        yield (
            "late_client",
            f"In {len(late_s)} open loops one request in a hundred left late, up to {1e3 * max(late_s):.1f} ms or more after it was due, "
            "for want of a free client or processor: latencies hold this wait, which is not the store's.",
        )


def _not_reached(one: Mapping[str, Any], points: Sequence[Point], nq: int) -> Point:
    """Return the row that says that a target cannot be reached, or that there are too few queries to show that it is."""
    if one["best"] is None:
        reason = (
            f"{one['queries']} tuning queries cannot show a recall of {one['target_recall']:g}: the lower end of its interval would be "
            "below even if they were all answered right; raise dataset.queries"
        )
    elif one["best"] < one["target_recall"]:
        reason = f"recall {one['target_recall']:g} is not reachable with this index: the best found was {one['best']:.4f}"
    else:
        reason = (
            f"{one['queries']} tuning queries cannot show a recall of {one['target_recall']:g}: the best found was {one['best']:.4f}, "
            "but the lower end of its interval is below; raise dataset.queries"
        )
    names = points[0].metrics if points else {"recall": Measured(None, "ratio", "higher")}
    return Point(
        k=one["k"],
        concurrency=None,
        search_params={},
        metrics={name: Measured(None, figure.unit, figure.better, reason=reason) for name, figure in names.items()},
        nq=nq,
        selectivity=one["selectivity"],
        target_recall=one["target_recall"],
    )


def _search_caveats(outcomes: Sequence[Outcome]) -> tuple[tuple[str, str], ...]:
    found = []
    if len(outcomes) == 1:
        found.append(("one_build", "The index was built once: insert, build and recall of another build may differ; raise processes."))
    server = outcomes[0].result["server"]
    if server and re.search(r"//(127\.|localhost|\[::1\])", server):
        text = "The server ran on the machine of its clients, which takes some of the processors' time from it."
        found.append(("shared_machine", text))
    elif server:
        text = (
            f"The server is at {server}: the machine in this record is its client's, latencies hold the way there and back, and neither "
            "its processors nor its memory are known here. Set beside each other only what was measured on one server."
        )
        found.append(("remote_server", text))
    return tuple(found)


def _baseline(data: Data, qrels: label_metrics.Qrels | None, asked: Ids) -> Measured:
    """Return the nDCG of BM25 over the same queries, which needs neither model nor index."""
    ranking = None if qrels is None else bm25(data, depth=LABEL_DEPTH)
    if qrels is None or ranking is None:
        reason = "the dataset has no relevance labels" if qrels is None else "BM25 ranks texts by texts"
        return Measured(None, "ratio", "higher", replication="query", reason=reason)
    scores = label_metrics.ndcg_at_k(ranking[asked], qrels, k=LABEL_DEPTH).scores
    return measured(mean_over_queries(scores), "ratio", "higher")


def _quality(
    ids: Ids | None,
    qrels: label_metrics.Qrels | None,
    random_weights: bool,
    *,
    suffix: str = "",
    others: Sequence[Ids] = (),
    hidden: str | None = None,
    keep: dict[str, Any],
    number: str = "",
) -> dict[str, Measured]:
    """Return nDCG and recall against the labels, a query's score being its mean over the builds; `hidden` says why there is none.

    The scores themselves go into `keep`, under the figure's name and the operating point's number.
    """
    measures: dict[str, Callable[..., label_metrics.LabelScores]] = {
        f"ndcg_at_{LABEL_DEPTH}": label_metrics.ndcg_at_k,
        f"label_recall_at_{LABEL_DEPTH}": label_metrics.recall_at_k,
    }
    reason = None
    if qrels is None:
        reason = "the dataset has no relevance labels"
    elif random_weights:
        reason = "random weights: the vectors mean nothing"
    elif hidden is not None:
        reason = hidden
    elif ids is None:
        reason = f"needs k ≥ {LABEL_DEPTH}"
    if reason is not None:
        return {f"{name}{suffix}": Measured(None, "ratio", "higher", replication="query", reason=reason) for name in measures}
    scores = {
        name: np.mean([measure(found, qrels, k=LABEL_DEPTH).scores for found in (ids, *others)], axis=0)
        for name, measure in measures.items()
    }
    keep |= {f"{name}{suffix}{number}": values for name, values in scores.items()}
    return {f"{name}{suffix}": measured(mean_over_queries(values), "ratio", "higher") for name, values in scores.items()}
