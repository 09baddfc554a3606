"""Predictions meet what turned out to be true. The specification is docs/join.md.

`outcome` has the words, `resolve` the pure verdict over one request's events, `state` what is kept, `processor` the step,
`naive` the twin that shares no code with them.
"""
