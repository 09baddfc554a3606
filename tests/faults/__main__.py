"""`make faults KILLS=1000 ARGS="--json --seed 7"`; see docs/faults.md."""

from __future__ import annotations

import argparse
import faulthandler
import shutil
import sys
import tempfile
from pathlib import Path

from services import logs
from tests.faults.campaign import Campaign, print_report
from tests.faults.round import stopped_on_signals


def main() -> int:
    """Run a campaign; 0 when nothing is amiss, 1 when something is, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make faults", description="Kill join workers and count what is lost.")
    parser.add_argument("--kills", type=int, default=50, help="how many workers to kill (make: KILLS)")
    parser.add_argument("--seed", type=int, default=1, help="seed of histories, aims and faults")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--no-record", action="store_true", help="without ClickHouse: no residual, no measures")
    parser.add_argument("--data-dir", type=Path, help="where everything goes and stays (default: temporary)")
    given = parser.parse_args()
    if given.kills < 1:
        parser.error("--kills takes a positive number")
    faulthandler.enable()  # librdkafka can end a process
    logs.configure("faults", "error")
    directory = given.data_dir or Path(tempfile.mkdtemp(prefix="weir-faults-"))
    campaign = Campaign(directory.absolute(), kills=given.kills, seed=given.seed, record=not given.no_record)
    try:
        with stopped_on_signals():
            report = campaign.run()
    except KeyboardInterrupt:
        campaign.report.notes.append(f"interrupted: only finished rounds were judged; everything is in {directory}")
        print_report(campaign.report, as_json=given.json)
        return 130
    if report.ok and given.data_dir is None:
        shutil.rmtree(directory, ignore_errors=True)
    elif not report.ok:
        report.notes.append(f"everything is in {directory} (seed {given.seed})")
    print_report(report, as_json=given.json)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
