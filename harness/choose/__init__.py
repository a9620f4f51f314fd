"""From a folder of results to one configuration for production, with the reasons.

===============  ====================================================================================
`candidates`     which configurations there are, with their figures; who may not compete, and why
`path`           what a user waits for: embedding and searching, from samples of two cells
`require`        what is asked for, and whether a figure is known to meet it
`cost`           what a configuration costs, by the user's own price file
`decide`         the choice, why each other candidate lost, and whether the best two can be told apart
`production`     the winner as code: the model's loading, the store's schema, index and searches
`verify`         the best two in one real loop, beside what was computed from two cells
`show`           all of it on a terminal, in Markdown and JSON
`command`        ``python -m harness choose``
===============  ====================================================================================
"""
