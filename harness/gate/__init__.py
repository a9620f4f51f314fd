"""The gate: does a change make something slower, worse or larger, and can that be shown?

========================  ==========================================================================
`harness.gate.outcome`    what a gate says: decisions, cases, the whole, and the exit code
`harness.gate.kinds`      what kind of number each metric is, with its floor and target, declared once
`harness.gate.decide`     the rule: rounds of log ratios to a decision; pure, nothing is read or printed
========================  ==========================================================================
"""
