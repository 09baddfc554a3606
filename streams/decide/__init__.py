"""Decide: from drift, figures and gates to retrain, promote and alert events.

`reduce` is a pure function of a model's state, an event and the time; `rows` keeps a state per model with what it has
applied and what it still has to send; `app` and `agents` are the thin Faust shell around them.
"""
