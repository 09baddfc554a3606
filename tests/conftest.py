"""What every test may rely on: the real parts, deterministic Hypothesis, no skip in CI, nothing left running.

Helpers that tests share are imported from the repository root, ``from tests.oracles import …``; ``tests`` is a
namespace package that exists only here (pyproject puts the root on pytest's path).
"""

import os
import shutil
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

pytest_plugins = [f"tests.{path.stem}" for path in sorted(Path(__file__).parent.glob("fixtures_*.py"))]

CI = os.environ.get("CI") == "true"

# Every process that a test starts inherits this mark, so an orphan is found even when its parent is gone.
SESSION_MARK = "WEIR_TEST_SESSION"
GRACE_S = 5.0

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("ci"), max_examples=25)  # `make check`
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

HEAVY = {"kafka", "clickhouse", "browser", "serial"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the tests that need a real part into two groups (xdist reads them before modifyitems runs here).

    `make test` runs two pytest workers, and a group stays on one of them, where a session fixture starts Kafka once.
    These tests wait more than they work, so one group for each worker.
    """
    if any(mark.name in HEAVY for mark in item.iter_markers()):
        half = "services" if item.nodeid.startswith(("tests/services/", "services/")) else "streams"
        item.add_marker(pytest.mark.xdist_group(half))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI: a test that never runs there proves nothing."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"CI allows no skip, and {item.nodeid} was skipped: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module (``pytest.importorskip``) into an error in CI."""
    report = yield
    if CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"CI allows no skip, and {collector.nodeid} was skipped: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


def _debian_program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"the Debian package {name} is not installed: apt-get install {name}")
    return Path(found)


@pytest.fixture(scope="session")
def kcat() -> Path:
    """Return the path of ``kcat``, a Kafka client that is not ours; skip where it is not installed."""
    return _debian_program("kcat")


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Return the path of Debian's ``chromium``; skip where it is not installed."""
    return _debian_program("chromium")


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail the run when a process that a test started is still there after every other fixture has let go."""
    mark = uuid.uuid4().hex
    os.environ[SESSION_MARK] = mark
    yield
    left = _started_by_tests(mark)
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = _started_by_tests(mark)
    if left:
        listing = "\n".join(f"  pid {process.pid}: {_command_line(process)}" for process in left)
        for process in left:
            process.kill()
        pytest.fail(f"tests left {len(left)} process(es) running (ended now):\n{listing}", pytrace=False)


def _started_by_tests(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(SESSION_MARK) == mark:
                # Python's own helper of multiprocessing lives as long as we do.
                helper = "multiprocessing.resource_tracker" in " ".join(process.cmdline())
                if not helper and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.NoSuchProcess:
        return "(just ended)"
