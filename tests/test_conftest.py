"""The rules that conftest.py holds everybody to, tried on small suites of their own."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a second saved per run
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    return pytester


SKIPS = """
    import pytest

    def test_needs_a_program_nobody_has():
        pytest.skip("no such program")

    @pytest.mark.xfail(strict=True)
    def test_known_gap():
        assert False
"""
SKIPPED_MODULE = 'import pytest\npytest.importorskip("no_such_module")\n'
NEEDS_KAFKA = """
    import pytest

    @pytest.mark.kafka
    @pytest.mark.parametrize("n", range(6))
    def test_on_kafka(n, worker_id):
        print("ran on", worker_id)
"""
LEAVES_A_PROCESS = """
    import subprocess, sys

    def test_forgets_its_child():
        code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
        subprocess.run([sys.executable, "-c", code])  # the grandchild outlives its parent
"""


def test_skip_is_a_skip_at_home(suite: pytest.Pytester) -> None:
    suite.makepyfile(SKIPS)
    suite.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(skipped=1, xfailed=1)


def test_skip_fails_in_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(SKIPS, test_whole_module=SKIPPED_MODULE)
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "--continue-on-collection-errors")
    result.assert_outcomes(failed=1, errors=1, xfailed=1)
    result.stdout.fnmatch_lines(["*CI allows no skip*no such program*"])


@pytest.mark.parametrize("workers", [[], pytest.param(["-p", "xdist", "-n", "1"], marks=pytest.mark.slow)])
def test_orphan_fails_the_run_and_is_ended(suite: pytest.Pytester, workers: list[str]) -> None:
    conftest = suite.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("GRACE_S = 5.0", "GRACE_S = 0.2"))
    suite.makepyfile(LEAVES_A_PROCESS)
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", *workers)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tests left 1 process(es) running*", "*time.sleep(60)*"])


@pytest.mark.slow
def test_tests_that_need_a_part_share_one_worker(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nmarkers = kafka")
    suite.makepyfile(NEEDS_KAFKA)
    result = suite.runpytest_subprocess(
        "-p", "no:cacheprovider", "-p", "xdist", "-n", "2", "--dist", "loadgroup", "-rP"
    )
    workers = [line for line in result.outlines if line.startswith("ran on")]
    assert len(workers) == 6
    assert len(set(workers)) == 1
