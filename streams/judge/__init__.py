"""Judge: reads what was counted (`measures`, `trials`) and says what it means (`metrics`, `drift`, `gates`).

`processor` is the way in. Below it: `panes` keeps counts until they may be believed, `figures` turns counts into
metrics, `detectors` raises alarms within a budget of false ones, `gates` compares the arms of a rollout at every look.
"""
