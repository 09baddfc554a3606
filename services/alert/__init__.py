"""`weir alert`: what people should know leaves as signed webhooks, at least once, and as seldom as it may.

Reading order: `plan` (pure: which alerts are told, when an attempt is repeated, when it is given up), `payload` (pure:
what is sent and how it is signed), `guard` (which addresses may be connected to), `store` (SQLite: what must not be
forgotten), `desk` (alerts in, deliveries planned), `courier` (deliveries out), `run` (Kafka and the threads), `look`
(read-only, for the page).
"""
