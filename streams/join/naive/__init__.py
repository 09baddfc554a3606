"""The naive twin of the join: docs/join.md written down again, for correctness alone.

It gets whole logs, reads every record once, forms the sets E(r), and asks `resolve` about every standing prediction. It
keeps no state, has no timers and takes no shortcuts, and it shares no code with the fast path: only then does equality
of the two prove something. Reading order: `envelopes`, `records` (a record: admission, control), `sets` (events,
standing predictions), `outcomes` (`resolve`), and `logs` (what a whole log should lead to: `expect`).
"""

from streams.join.naive.envelopes import is_json, text_of
from streams.join.naive.logs import (
    Dead,
    Expectation,
    Expected,
    OutcomeId,
    expect,
    is_beyond,
    timers_clock,
    why_dead,
)
from streams.join.naive.outcomes import Outcome, compares, counts, is_sampled, resolve, same_value
from streams.join.naive.records import (
    Admitted,
    Bounds,
    Logs,
    Record,
    Refused,
    admit,
    events_in,
    murmur2,
    partition_of,
    policy_in_force,
    read_policy,
)
from streams.join.naive.sets import Event, Identity, Standing, events_of, identity_of, standing_of

__all__ = [
    "Admitted",
    "Bounds",
    "Dead",
    "Event",
    "Expectation",
    "Expected",
    "Identity",
    "Logs",
    "Outcome",
    "OutcomeId",
    "Record",
    "Refused",
    "Standing",
    "admit",
    "compares",
    "counts",
    "events_in",
    "events_of",
    "expect",
    "identity_of",
    "is_beyond",
    "is_json",
    "is_sampled",
    "murmur2",
    "partition_of",
    "policy_in_force",
    "read_policy",
    "resolve",
    "same_value",
    "standing_of",
    "text_of",
    "timers_clock",
    "why_dead",
]
