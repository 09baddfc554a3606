"""`weir trace`: one request's whole story, from what `record` has landed.

In the order in which data flows: `landed` reads the rows, `story` says what they mean (pure; docs/join.md through the
naive twin; its rooms are `request`, `events`, `answers`, `why` and `words`), `panes` and `lineage` say what came of it,
`unknown` why there is nothing, `show` prints it for people.
"""
