"""A real stream, replayed through every real part.

`stream` (what is sent and when), `replay` (sends it, behind a barrier), `story` (what happened, told as it happens),
`figures` (what it came to), `run` (puts them together).
"""
