"""`weir train`: retrain events become candidates, one run per retrain id, whatever is killed when.

`attempt` does the run and keeps what it announces, which is sent byte for byte: a retrain event that is read twice is
answered twice with one and the same candidate. The reference goes first, so that it is frozen when the candidate is
heard of; only then is the offset committed.
"""

from __future__ import annotations

import logging
import threading
import time
from base64 import b64encode

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.event import decode, encode
from schemas.lifecycle import Candidate, Retrain
from schemas.records import DeadLetter
from schemas.settings import Settings
from schemas.topics import topic_name
from services.kafka import Sender
from services.train.attempt import attend
from services.train.initial import send_reference
from streams.runtime import kafka
from streams.runtime.member import put_out_once_more
from streams.runtime.offsets import committed
from streams.runtime.topics import await_topics

STAGE = "train"
_IDLE_S = 0.2
_PATIENCE_S = 1.0
_LONGEST_RUN_MS = 3_600_000

_log = structlog.get_logger()
_rdkafka = logging.getLogger("librdkafka")


def run(settings: Settings, stop: threading.Event) -> None:
    """Answer retrain events until `stop` is set. Raises `WeirError` for what waiting does not mend."""
    if not await_topics(settings, stop, ("retrain", "candidates", "control", "dead-letters")):
        return
    _warm_up()
    sender, consumer = Sender(settings, STAGE), _open(settings, stop)
    put_out: list[float] = []
    try:
        while not stop.is_set():
            message = consumer.poll(_IDLE_S)
            if message is None:
                continue
            error = message.error()
            if error is not None and error.fatal():
                put_out = put_out_once_more(settings, STAGE, put_out, error.str())
                consumer.close()
                consumer = _open(settings, stop)
                continue
            end = _end_of(message)
            if end is None:
                try:
                    answer(settings, message, sender, stop)
                except InterruptedError:
                    return
                end = (message.offset() or 0) + 1
            _commit(consumer, message, end)
    finally:
        consumer.close()


def answer(settings: Settings, message: Message, sender: Sender, stop: threading.Event) -> None:
    """Train what one record asks for and announce it. Raises `InterruptedError` when `stop` was set before the end."""
    body = message.value() or b""
    try:
        retrain = decode(body, Retrain)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(message, str(error), sender)
        return
    began = time.monotonic()
    candidate, artifact = attend(settings, retrain, stop)
    if artifact is not None:
        send_reference(sender, settings, artifact.card.reference, at_ms=retrain.at_ms)
    sender.send("candidates", candidate, key=retrain.model.encode(), append_ms=retrain.at_ms)
    sender.flush()
    said = decode(candidate, Candidate)
    _log.info(
        "candidate",
        model=said.model,
        version=said.version,
        retrain_id=said.retrain_id,
        rows=said.rows,
        error=said.error,
        seconds=round(time.monotonic() - began, 3),
    )


def _refuse(message: Message, detail: str, sender: Sender) -> None:
    """Put a record that is no retrain event into dead letters."""
    _, append_ms = message.timestamp()
    partition, offset = message.partition() or 0, message.offset() or 0
    key, value = message.key(), message.value()
    letter = DeadLetter(
        reason="unreadable",
        detail=detail,
        stage=STAGE,
        topic="retrain",
        partition=partition,
        offset=offset,
        append_ms=append_ms,
        key=None if key is None else b64encode(key).decode(),
        value=None if value is None else b64encode(value).decode(),
        at_ms=append_ms,
    )
    sender.send("dead-letters", encode(letter), key=f"retrain/{partition}/{offset}".encode(), append_ms=append_ms)
    sender.flush()
    _log.error("unreadable", topic="retrain", partition=partition, offset=offset, reason=detail)


def _open(settings: Settings, stop: threading.Event) -> Consumer:
    """Join the group as this worker's slot: a restart has its partition again at once."""
    client = f"{STAGE}-{settings.runtime.worker}"
    properties = kafka.consumer_properties(settings, client, kafka.group_id(settings.namespace, STAGE), instance=client)
    # A run may take longer than the five minutes after which a silent member is put out.
    consumer = Consumer({**properties, "max.poll.interval.ms": _LONGEST_RUN_MS}, logger=_rdkafka)

    def begin(member: Consumer, given: list[TopicPartition]) -> None:
        places = [(tp.topic, tp.partition) for tp in given]
        while not stop.is_set():
            try:
                admin = kafka.make_admin(settings, STAGE)  # one that saw a broker die may never look again
                first, last = kafka.earliest(admin, places), committed(member, places, patience_s=0.0)
            except KafkaException as error:
                _log.warning("waiting", stage=STAGE, reason=kafka.reason(error))
                stop.wait(_PATIENCE_S)
            else:
                member.assign([TopicPartition(*place, max(last[place].offset, first[place])) for place in places])
                return

    consumer.subscribe([topic_name(settings.namespace, "retrain")], on_assign=begin)
    return consumer


def _end_of(message: Message) -> int | None:
    """Give the offset that this piece of news says, transaction markers passed; None for a record.

    Negative: it says none.
    """
    error = message.error()
    if error is None:
        return None
    if error.code() == KafkaError._PARTITION_EOF:
        return message.offset() or 0
    _log.warning("kafka_error", topic=message.topic(), reason=error.str())
    return -1


def _commit(consumer: Consumer, message: Message, end: int) -> None:
    """Commit what is answered. A group that gave our partition away has it answered again, with the same bytes."""
    if end < 0:
        return
    try:
        place = TopicPartition(message.topic() or "", message.partition() or 0, end)
        consumer.commit(offsets=[place], asynchronous=False)
    except KafkaException as error:
        _log.warning("not_committed", offset=end, reason=kafka.reason(error), effect="it is answered again")


def _warm_up() -> None:
    """Load torch while nobody waits, and leave the other cores to others."""
    import torch

    torch.set_num_threads(1)
    from services.train import make

    _log.info("ready", stage=STAGE, torch=torch.__version__, code=make.code_version())
