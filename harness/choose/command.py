"""``python -m harness choose``: from a folder of results to one configuration, with the reasons, the costs and the code for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.choose import cost, production, show
from harness.choose.candidates import gather
from harness.choose.decide import OBJECTIVES, Choice, Objective, choose, said
from harness.choose.require import Requirement, number_of, requirements
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


def run(
    folder: Path,
    *,
    objective: str = "latency",
    min_recall: float | None = None,
    max_p99: str | None = None,
    min_ndcg: float | None = None,
    max_memory: str | None = None,
    prices: Path | None = None,
    corpus: str | None = None,
    rate: float | None = None,
    dataset: str | None = None,
    machine: str | None = None,
    k: int | None = None,
    verify: bool = False,
    config_dirs: Sequence[str] = (),
) -> int:
    """Choose, print and write what was chosen; returns the exit code: 0, or 1 where nothing qualifies.

    Raises
    ------
    harness.errors.HarnessError
        When what is asked for is wrong or there is nothing to choose from.
    """
    from rich.console import Console

    answer = decide(
        folder,
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
    failed: HarnessError | None = None
    if verify:
        from harness.choose.verify import verified

        console().print("measuring the best two in one loop …", highlight=False)
        best = [one for one in (answer.choice.winner, answer.choice.rival) if one is not None]
        try:
            answer = replace(answer, verified=tuple(verified(folder, best, config_dirs=config_dirs)))
        except HarnessError as error:  # the choice stands all the same, and is written and printed first
            failed = error
            answer = replace(answer, verified=("Not verified in a real loop.",))
    answer = write(folder, answer)
    show.print_answer(answer, Console())
    if failed is not None:
        raise failed
    return 0 if answer.choice.winner is not None else 1


def decide(
    folder: Path,
    *,
    objective: str,
    min_recall: float | None = None,
    max_p99: str | None = None,
    min_ndcg: float | None = None,
    max_memory: str | None = None,
    prices: Path | None = None,
    corpus: str | None = None,
    rate: float | None = None,
    dataset: str | None = None,
    machine: str | None = None,
    k: int | None = None,
) -> show.Answer:
    """Return the answer to what is asked of a folder of results; writes and prints nothing."""
    wrong: list[str] = []
    asked: tuple[Requirement, ...] = ()
    documents = given = None
    try:
        asked = requirements(min_recall=min_recall, max_p99=max_p99, min_ndcg=min_ndcg, max_memory=max_memory)
    except SettingsError as error:
        wrong += error.violations
    try:
        documents = None if corpus is None else number_of(corpus, "--corpus")
    except SettingsError as error:
        wrong += error.violations
    try:
        given = None if prices is None else cost.read(prices)
    except SettingsError as error:
        wrong += error.violations
    if objective not in OBJECTIVES:
        wrong.append(f"--objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    if rate is not None and not 0 < rate < float("inf"):
        wrong.append(f"--rate must be a number of queries a second > 0, got {rate!r}")
    if (corpus is None) != (rate is None):
        wrong.append("--corpus and --rate go together: a month's cost needs both; add the other or take both away")
    if prices is None and objective == "cost":
        wrong.append(
            f"--objective cost needs --prices FILE, your own prices: copy {cost.example()} and put in what you pay for a machine "
            "and an accelerator an hour, a GB of memory and of storage a month"
        )
    if prices is None and corpus is not None:
        wrong.append("--corpus and --rate are for the cost of a month; add --prices FILE")
    if wrong:
        raise SettingsError(wrong)
    field = gather(folder, dataset=dataset, machine=machine, k=k)
    best = OBJECTIVES[objective]
    if given is not None:
        field = replace(field, candidates=tuple(cost.priced(one, given, corpus=documents, rate_per_s=rate) for one in field.candidates))
        best = _objective(best, given, monthly=documents is not None)
    choice = choose(field.candidates, asked, best)
    supposed = [*SUPPOSED]
    if given is not None:
        supposed += cost.assumptions(given, choice.winner, corpus=documents, rate_per_s=rate)
    return show.Answer(str(folder), field, choice, tuple(supposed), currency=given.currency if given else "")


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
