"""Predictions meet what turned out to be true. The specification is docs/join.md.

Reading order: `outcome` has the words, `admission` lets records in, `resolve` is the pure verdict on one prediction,
`revise` what is said of it, `state` what is kept, `processor` the step, `chained` what may follow it; `naive` is
the twin that shares no code with them.
"""
