"""`weir watch`: tables of predictions and labels through the same join, measure and judge that run live.

`columns` says which column is what, `rows` makes events of rows, `replay` takes them through the loop under a virtual
clock, `run` puts these together, `report` and `page` show what was found. No Kafka, no ClickHouse, no torch.
"""
