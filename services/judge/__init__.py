"""What a person asks of the judge beside its running: what it could find (`plan`), what it would have found (`again`).

`weir judge plan` and `weir judge replay`. Both read what `weir record` has landed and write nothing.
"""
