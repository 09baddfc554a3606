"""What counting, judging and comparing cost: `python -m benchmarks.judge`.

`made` makes references, predictions and panes; `pace` judges ten thousand streams pane by pane, `values` counts feature
values as `measure` does, `wide` runs `weir drift` on a wide table, `peer` runs Evidently on tables that it survives.
"""
