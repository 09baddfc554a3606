"""`weir drift`: two tables compared column by column, without Kafka, ClickHouse or a server.

Tables are read a column at a time, so what is held at once is a few columns, however many there are.
"""
