"""The language of Weir: every event, command and setting, and nothing that acts on them.

Reading order, in the order in which data flows: `inputs` (what apps send), `policy` (how silence and signals become
labels), `feedback` (what the join says), `measures` (what is counted, judged and found), `lifecycle` (retraining and
promotion), `control` (what reaches every partition in-band), `records` (steps and dead letters), `recall` (what the
join asks of the record), then `topics` (where each of them lives), `settings`, `spec` (pluggable parts) and `verdict`.

One source of truth: the `msgspec` structs in these files. The hot path decodes them as they are, `schemas.edge` derives
pydantic models from them for HTTP, and `schemas.generate` writes their JSON Schemas into `schemas/json/`.
"""
