"""Outcomes of made-up gates, one for each verdict and some that mix them; ``python -m tests.gate.examples`` writes the golden files anew.

The numbers are made up for layout; none is a measurement.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.gate.decide import confirm
from harness.gate.outcome import Case, Decision, Outcome

GOLDEN = Path(__file__).parent / "golden"
AT = "2026-11-02T10:30:00.000000Z"

MINILM = "minilm · cpu · fp32 · batch 32"
HNSW = "minilm · faiss · hnsw · ef=64 · k=10"


def case(
    verdict, *, cell=MINILM, metric="forward_s", kind="duration", unit="s", base=0.0412, head=None, change=None, width=0.02, **decision
):
    head = (base * (1 + change) if change is not None else base) if head is None else head
    confirmed = decision.pop("confirmed", None)
    first = decision.pop("first", None)
    if change is not None:
        decision = {
            "lo": change - width,
            "hi": change + width,
            "confidence": 0.98,
            "p": 0.0004,
            "rounds": 20,
            "looks": 2,
            "detectable": 0.031,
        } | decision
    said = Decision(verdict, change=change, **decision)
    return Case(cell, metric, kind, unit, base, head, said, confirmed, first, 0.025, 0.05)


REGRESSED = Decision("REGRESSION", change=0.068, lo=0.049, hi=0.089, confidence=0.98, rounds=20, looks=2)

CALM = Decision("PASS", change=0.011, rounds=20)
SHORT = Decision("INCONCLUSIVE", change=0.04, rounds=7)

CASES = {
    "REGRESSION": case(
        "REGRESSION", change=0.068, reason="worse by more than the floor, and not by chance", confirmed=REGRESSED, first=REGRESSED
    ),
    "MISSING": Case(
        "minilm · cpu · fp32 · batch 8", "all metrics", "", "", None, None, Decision("MISSING", reason="the head has no such cell")
    ),
    "ERROR": Case(
        "resnet50 · cpu · fp32 · batch 8", "all metrics", "", "", None, None,
        Decision("ERROR", reason="head is failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x384 and 768x2)"),
    ),
    "NOT COMPARABLE": case("NOT COMPARABLE", cell=HNSW, metric="search_s", base=0.0021, head=0.0022, reason="other machine: cores 2 / 4"),
    "INCONCLUSIVE": case(
        "INCONCLUSIVE", cell=HNSW, metric="search_p95_s", kind="tail", base=0.0021, change=0.03, width=0.054, rounds_needed=140,
        detectable=0.093, reason="neither harm nor a change below 10% could be shown",
    ),
    "IMPROVED": case(
        "IMPROVED", cell=HNSW, metric="search_s", base=0.0021, change=-0.12, reason="better by more than the floor, and not by chance"
    ),
    "NEW": Case("minilm · cpu · fp32 · batch 64", "all metrics", "", "", None, None, Decision("NEW", reason="the base has no such cell")),
    "PASS": case("PASS", change=0.004),
}  # fmt: skip
"""One case of each verdict."""

RECALL = case(
    "PASS", cell=HNSW, metric="recall_of_builds", kind="quality", unit="ratio", base=0.9841, head=0.9838, change=-0.0003, width=0.0009
)
LOST = case(
    "REGRESSION", cell=HNSW, metric="recall", kind="exact", unit="ratio", base=0.9841, head=0.9503, change=-0.0338, width=0.0,
    reason="0.9841 became 0.9503, which is exact",
)  # fmt: skip
BYTES = case("REGRESSION", cell=HNSW, metric="index_bytes", kind="exact", unit="bytes", base=33_120_044.0, head=33_120_048.0,
             change=1.2e-7, width=0.0, reason="3.31200e+07 became 3.31200e+07, which is exact")  # fmt: skip


def outcome(*cases, **changes):
    known = {
        "cases": tuple(cases),
        "base": "3bfda9c (merge base of origin/main)",
        "head": "8d10f2e",
        "how": "interleaved rounds",
        "duration_s": 252.0,
        "rounds": 17,
        "machine": "Example CPU @ 2.50GHz, 2 cores, 8 GiB",
        "load": "load 0.3 beside the gate",
    }
    return Outcome(**(known | changes))


OUTCOMES = {
    **{verdict.lower().replace(" ", "-"): outcome(one) for verdict, one in CASES.items()},
    "mixed": outcome(*reversed(CASES.values()), RECALL, *(replace(CASES["PASS"], metric=name) for name in ("load_s", "query_embed_s"))),
    "faster-with-less-recall": outcome(CASES["IMPROVED"], LOST, BYTES),
    "not-reproduced": outcome(
        case("PASS", change=0.011, first=REGRESSED, confirmed=CALM, reason=confirm(REGRESSED, CALM).reason)
    ),
    "budget-ended": outcome(
        case(
            "INCONCLUSIVE", change=0.04, width=0.06, rounds=7, first=REGRESSED, confirmed=SHORT,
            reason=confirm(REGRESSED, SHORT, ended=True).reason,
        )
    ),
    "contaminated": outcome(CASES["REGRESSION"], CASES["PASS"], control=(CASES["PASS"], CASES["IMPROVED"])),
    "control-clean": outcome(CASES["PASS"], control=(CASES["PASS"],)),
    "advisory": outcome(
        case("INCONCLUSIVE", change=0.2, width=0.3, advisory=True, reason="3 and 3 independent processes: a verdict needs 10 a side"),
        how="stored results", advisory=True, notes=("The two sides were not measured in common rounds",), duration_s=0.0,
    ),
    "strict": outcome(CASES["INCONCLUSIVE"], strict=True),
    "nothing": outcome(notes=("There is no baseline: results/base holds no records",)),
}  # fmt: skip
"""Outcomes by the name of their golden files."""

HOSTILE = "<script>alert(1)</script>|`x` *b*\n\r\x00\x1b[31m::error title=x::y%0A,&amp; %{x} \ud800 \u2028"


def golden():
    """Return the text of every golden file, by its name."""
    from harness.gate.artefacts import github, junit, markdown, verdict

    texts = {}
    for name, one in OUTCOMES.items():
        texts[f"{name}.md"] = markdown.summary(one)
        texts[f"{name}.xml"] = junit.to_xml(one, AT)
    texts["mixed.json"] = verdict.to_json(OUTCOMES["mixed"], AT)
    texts["mixed.annotations.txt"] = "\n".join(github.of(OUTCOMES["mixed"])) + "\n"
    return texts


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in golden().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
        print(GOLDEN / name)
