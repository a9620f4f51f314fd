"""What differs between results that were measured apart, and whether that can be said.

================================  ==================================================================
`harness.compare.rows`            one side: its rows, what each is and what it rests on
`harness.compare.match`           which rows belong together, and what stands in the way
`harness.compare.evidence`        a value a process, a score a query, the ratio of two figures
`harness.compare.judge`           what may be said of each figure
`harness.compare.comparison`      two sides set against each other, as data
`harness.compare.words`           how that is written
`harness.compare.show`            terminal, Markdown, HTML
`harness.compare.command`         ``python -m harness compare``
================================  ==================================================================

Never compared: other data, other weights, a metric that is computed in another way, vectors of random weights; and timings or
memory of another machine unless that is asked for. A setting that exists on one side alone has no partner and is listed.
"""
