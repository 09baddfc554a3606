"""Why a worker stops, as errors whose exit codes a supervisor can tell apart."""

from __future__ import annotations

from schemas.errors import WeirError

UNKNOWN_OUTCOME, FENCED, PROCESSOR_FAILED, NOT_RESTORED, KAFKA_FAILED = 70, 71, 72, 73, 74


class UnknownOutcome(WeirError):
    """A produce, flush or commit failed or took too long, so nobody here knows whether it happened.

    The process must end. Its successor's `init_transactions` ends the transaction one way or the other, and the
    committed step number then says which.
    """

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(
            f"the outcome of {what} is unknown: {detail}",
            fix="start the process again (a supervisor does): it finds out and goes on from what is committed",
            code=UNKNOWN_OUTCOME,
        )


class Fenced(WeirError):
    """Another process took this worker slot, or the broker gave up this one's transaction: the two look alike."""

    def __init__(self, slot: str, detail: str) -> None:
        super().__init__(
            f"the worker slot {slot!r} is no longer this process's: {detail}",
            fix="run each slot once, a second worker with its own runtime.worker (WEIR_RUNTIME__WORKER); "
            "if this one was only slow or asleep (runtime.transaction_timeout_ms), start it again",
            code=FENCED,
        )


class ProcessorFailed(WeirError):
    """A step raised, or gave an output that cannot be sent. Nothing of it is committed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fix="this is a bug in the processor: report it with this text", code=PROCESSOR_FAILED)


class NotRestored(WeirError):
    """The state that belongs to the committed step cannot be built."""

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message, fix=fix, code=NOT_RESTORED)


class KafkaFailed(WeirError):
    """Reading from Kafka failed for good, with nothing open. A successor may do better."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"Kafka refused to go on: {detail}",
            fix="start the process again (a supervisor does); it goes on from what is committed",
            code=KAFKA_FAILED,
        )
