"""`weir watch`: tables of predictions and labels through the same join, measure and judge that run live.

`tables` are what is read, `columns` says which column is what, `reading` and `rows` make events of rows, `usual`
freezes the reference, `replay` takes events through the loop under a virtual clock, `run` puts these together; `doubts`
says what a report does not tell, `report` and `page` show it. No Kafka, no ClickHouse, no torch.
"""
