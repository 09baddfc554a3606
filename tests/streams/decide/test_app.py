"""What of Faust is replaced and needs no Kafka to be seen."""

import asyncio
from pathlib import Path

from schemas.settings import Settings
from streams.decide.app import App


def test_resuming_what_flows_lets_go_of_nothing(tmp_path: Path) -> None:
    """Faust resumes again after a table is restored, when the first batches may be waiting for the agent."""

    async def resumed_twice() -> tuple[bool, bool]:
        app = App(Settings(namespace="t", data_dir=tmp_path))
        queue = app.FlowControlQueue(8, clear_on_resume=True)
        app.flow_control.resume()
        queue.put_nowait("a batch")
        app.flow_control.resume()
        kept = not queue.empty()
        app.flow_control.suspend()
        app.flow_control.resume()
        return kept, not queue.empty()

    assert asyncio.run(resumed_twice()) == (True, False), "what was read before a rebalance is read again after it"
