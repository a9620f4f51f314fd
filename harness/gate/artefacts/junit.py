"""``junit.xml``: a test case for each cell and metric, as CI systems draw them.

A regression or a missing cell is a failure, a crash is an error, what is undecided, new or not comparable is skipped: a CI system then
shows red for exactly what makes the exit code 1 or 5. Where the control makes the whole run untrustworthy, that is the one error, and what
looks like a regression is skipped too, because nobody is to blame for it.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from harness.gate.artefacts.words import headline, moved, verdict, why
from harness.gate.outcome import Case, Outcome, Verdict, worst_first

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 document can hold, not even escaped."""

_ELEMENTS: dict[Verdict, str] = {
    "REGRESSION": "failure",
    "MISSING": "failure",
    "ERROR": "error",
    "NOT COMPARABLE": "skipped",
    "INCONCLUSIVE": "skipped",
    "NEW": "skipped",
}


def to_xml(outcome: Outcome, at: str) -> str:
    """Return the document."""
    suite = ElementTree.Element("testsuite", name="performance gate", timestamp=at, time=f"{outcome.duration_s:.3f}")
    _properties(suite, outcome)
    if outcome.contaminated:
        one = ElementTree.SubElement(suite, "testcase", classname="performance gate", name="A/A control", time="0")
        ElementTree.SubElement(one, "error", message=_text(headline(outcome)), type="CONTAMINATED")
    for case in worst_first(outcome.cases):
        _case(suite, case, contaminated=outcome.contaminated)
    for name in ("failure", "error", "skipped"):
        number = sum(one.find(name) is not None for one in suite.iter("testcase"))
        suite.set(f"{name}s" if name != "skipped" else name, str(number))
    suite.set("tests", str(sum(1 for _ in suite.iter("testcase"))))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _properties(suite: ElementTree.Element, outcome: Outcome) -> None:
    known = {"base": outcome.base, "head": outcome.head, "how": outcome.how, "machine": outcome.machine, "load": outcome.load}
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in known.items():
        if value:
            ElementTree.SubElement(properties, "property", name=name, value=_text(value))


def _case(suite: ElementTree.Element, case: Case, *, contaminated: bool) -> None:
    one = ElementTree.SubElement(suite, "testcase", classname=_text(case.cell), name=_text(case.metric), time="0")
    said = f"{verdict(case)}: {'; '.join(part for part in (moved(case), why(case)) if part)}".removesuffix(": ")
    element = _ELEMENTS.get(case.decision.verdict)
    if contaminated and element == "failure":
        element, said = "skipped", f"the control was flagged, so nothing is blamed; {said}"
    if element is None:
        ElementTree.SubElement(one, "system-out").text = _text(said)
    elif element == "skipped":
        ElementTree.SubElement(one, element, message=_text(said))
    else:
        ElementTree.SubElement(one, element, message=_text(said), type=case.decision.verdict).text = _text(said)


def _text(words: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", words)
