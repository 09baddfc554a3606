"""Weir with envelopes: the same events, many in one Arrow record, and feedback in envelopes; else as `weir_json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.join.peers import weir_json


def _prepare(cache: Path) -> Sequence[str]:
    return [*weir_json.PEER.prepare(cache), "--envelopes"]


PEER = replace(weir_json.PEER, name="weir_arrow", title="Weir, envelopes", prepare=_prepare)
