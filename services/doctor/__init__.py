"""`weir doctor`: what is wrong with the surroundings, with the settings, or with how they are used, and how to mend it.

A check is a function in one of `machine`, `cluster`, `history`, which gives findings; `run` lists them all. Whatever a
check needs and cannot have makes it `skipped`, with the reason: one cause is told once.
"""
