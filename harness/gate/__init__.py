"""The gate: does a change make something slower, worse or larger, and can that be shown?

========================  ==========================================================================
`harness.gate.outcome`    what a gate says: decisions, cases, the whole, and the exit code
`harness.gate.kinds`      what kind of number each metric is, with its floor and target, declared once
`harness.gate.decide`     the rule: rounds of log ratios to a decision; pure, nothing is read or printed
`harness.gate.stored`     two folders of results, nothing measured anew; `harness.gate.benchmarks` the same of pytest-benchmark files
`harness.gate.settings`   what is measured: cells, metrics, floors, targets, budget
`harness.gate.sides`      base and head: source, interpreter, settings; worktrees that are removed again
`harness.gate.rounds`     the schedule: rounds, looks, control, budget, second measurement
`harness.gate.arms`       makes rounds of fresh processes; `harness.gate.worker` runs in them and calls `harness.gate.samples`
`harness.gate.pytest_rounds`  makes rounds of a pytest-benchmark suite
`harness.gate.artefacts`  what is printed and written
`harness.gate.selftest`   tries the rule on the machine at hand, on work that is known (`harness.gate.planted`)
`harness.gate.command`    the command line
========================  ==========================================================================
"""
