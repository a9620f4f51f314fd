"""``python -m harness choose``: from a folder of results to one configuration, with the reasons, the costs and the code for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.choose import cost, production, show
from harness.choose.candidates import gather
from harness.choose.decide import OBJECTIVES, Choice, Objective, choose, said
from harness.choose.require import MOST, Requirement, number_of, requirements
from harness.errors import HarnessError, SettingsError
from harness.progress import console
from harness.records import write_atomically

SUPPOSED = (
    "End to end is one query embedded (batch 1) and then searched for: the sums of all samples of both cells, process by process, "
    "as if the two did not disturb each other; --verify measures both in one loop.",
    "Memory is the peak of the process with the model plus that of the process with the index, or the server's with the index loaded, "
    "on the host; libraries that both have loaded count twice, an accelerator's own memory does not count.",
    "Queries a second: one machine embeds (one query at a time) and searches in turns.",
)


@dataclass(frozen=True)
class Asked:
    """What is asked of a folder of results, as the command line has it."""

    objective: str = "latency"
    min_recall: float | None = None
    max_p99: str | None = None
    min_ndcg: float | None = None
    max_memory: str | None = None
    prices: Path | None = None
    corpus: str | None = None
    """Documents, for the cost of a month."""
    rate: float | None = None
    """Queries a second, for the same."""
    dataset: str | None = None
    machine: str | None = None
    k: int | None = None


def run(folder: Path, asked: Asked, *, verify: bool = False, config_dirs: Sequence[str] = ()) -> int:
    """Choose, print and write what was chosen; returns the exit code: 0, or 1 where nothing qualifies.

    Raises
    ------
    harness.errors.HarnessError
        When what is asked for is wrong or there is nothing to choose from.
    """
    from rich.console import Console

    answer = decide(folder, asked)
    failed: HarnessError | None = None
    if verify and answer.choice.winner is not None:
        from harness.choose.verify import verified

        console().print("measuring the best two in one loop …", highlight=False)
        best = [one for one in (answer.choice.winner, answer.choice.rival) if one is not None]
        found, failed = verified(folder, best, config_dirs=config_dirs)
        answer = replace(answer, verified=tuple(found))  # the choice stands all the same, and is written and printed first
    answer = write(folder, answer)
    show.print_answer(answer, Console())
    if failed is not None:
        raise failed
    return 0 if answer.choice.winner is not None else 1


def decide(folder: Path, asked: Asked) -> show.Answer:
    """Return the answer to what is asked of a folder of results; writes and prints nothing.

    Raises
    ------
    harness.errors.SettingsError
        With everything that is wrong with what is asked.
    """
    wrong: list[str] = []
    constraints: tuple[Requirement, ...] = ()
    corpus = prices = None
    try:
        constraints = requirements(min_recall=asked.min_recall, max_p99=asked.max_p99, min_ndcg=asked.min_ndcg, max_memory=asked.max_memory)
    except SettingsError as error:
        wrong += error.violations
    try:
        corpus = None if asked.corpus is None else number_of(asked.corpus, "--corpus")
    except SettingsError as error:
        wrong += error.violations
    try:
        prices = None if asked.prices is None else cost.read(asked.prices)
    except SettingsError as error:
        wrong += error.violations
    wrong += _contradictions(asked)
    if wrong:
        raise SettingsError(wrong)
    field = gather(folder, dataset=asked.dataset, machine=asked.machine, k=asked.k)
    objective = OBJECTIVES[asked.objective]
    if prices is not None:
        field = replace(field, candidates=tuple(cost.priced(one, prices, corpus=corpus, rate_per_s=asked.rate) for one in field.candidates))
        objective = _objective(objective, prices, monthly=corpus is not None)
    choice = choose(field.candidates, constraints, objective)
    supposed = [*SUPPOSED]
    if prices is not None:
        supposed += cost.assumptions(prices, choice.winner, measured=field.corpus, corpus=corpus, rate_per_s=asked.rate)
    return show.Answer(str(folder), field, choice, tuple(supposed), currency=prices.currency if prices else "")


def _contradictions(asked: Asked) -> list[str]:
    """Return what is wrong with how the parts of a question go together."""
    wrong = []
    if asked.objective not in OBJECTIVES:
        wrong.append(f"--objective must be one of {', '.join(OBJECTIVES)}, got {asked.objective!r}")
    if asked.rate is not None and not 0 < asked.rate <= MOST:
        wrong.append(f"--rate must be a number of queries a second in (0, {MOST:.0e}], got {asked.rate!r}")
    if asked.k is not None and asked.k < 1:
        wrong.append(f"--k must be a whole number ≥ 1, got {asked.k}")
    if (asked.corpus is None) != (asked.rate is None):
        wrong.append("--corpus and --rate go together: a month's cost needs both; add the other or take both away")
    if asked.prices is None and asked.objective == "cost":
        wrong.append(
            f"--objective cost needs --prices FILE, your own prices: copy {cost.example()} and put in what you pay for a machine "
            "and an accelerator an hour, a GB of memory and of storage a month"
        )
    if asked.prices is None and asked.corpus is not None:
        wrong.append("--corpus and --rate are for the cost of a month; add --prices FILE")
    return wrong


def _objective(objective: Objective, prices: cost.Prices, *, monthly: bool) -> Objective:
    """Return the objective, cost being that of a month where it is known for what."""
    if objective.name != "cost":
        return objective
    named = replace(objective, unit=prices.currency)
    return replace(named, figure="cost_per_month", title="cost a month") if monthly else named


def write(folder: Path, answer: show.Answer) -> show.Answer:
    """Write ``choice.md``, ``choice.json`` and, where there is a choice, ``production.py``; returns the answer that says where.

    A ``production.py`` of an earlier choice is removed where nothing qualifies now: it would pass for the answer.
    """
    module = folder / "production.py"
    try:
        if answer.choice.winner is not None:
            try:
                text, notes = production.code(
                    answer.choice.winner, folder=str(folder), about=answer.field.about, measured=_measured(answer.choice)
                )
            except SettingsError as error:  # a plug-in that is not installed here
                module.unlink(missing_ok=True)
                answer = replace(answer, production_note=f"No code was generated: {error}")
            else:
                production.write(module, text)
                answer = replace(answer, production=str(module), production_note=" ".join(notes))
        else:
            module.unlink(missing_ok=True)
        write_atomically(folder / "choice.md", show.markdown(answer).encode("utf-8", "backslashreplace"))
        write_atomically(folder / "choice.json", show.as_json(answer).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise HarnessError(f"{folder} cannot be written ({error.strerror or error}); make the folder writable") from error
    return answer


def _measured(choice: Choice) -> list[str]:
    winner = choice.winner
    assert winner is not None
    figures = {"recall": "recall", "ndcg_at_10": "nDCG@10", "latency_p50_s": "p50 end to end", "latency_p99_s": "p99 end to end"}
    found = [f"{title} {said(winner, name)}" for name, title in figures.items()]
    return [*found, *(f"asked for: {requirement}" for requirement in choice.requirements)]
