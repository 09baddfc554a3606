"""Weir in a notebook: `watch` takes data frames through the loop that runs live, without Kafka, a server or torch.

>>> import numpy as np, pyarrow as pa
>>> draw = np.random.default_rng(7)
>>> score = draw.random(4_000)
>>> hit = draw.random(4_000) < np.where(np.arange(4_000) < 2_000, score, 1 - score)
>>> found = watch(pa.table({"timestamp": 1767225600 + 60 * np.arange(4_000), "score": score, "label": hit.astype(int)}))
>>> sorted({alarm["stream"] for alarm in found.to_dict()["alarms"]})
['quality:error']
"""

from services.client.notebook import Report, watch

__all__ = ["Report", "watch"]
