"""The demo's real data: Elec2, fetched at set-up and never committed.

``python -m services.local.datasets`` puts ``elec.csv`` (45,312 half hours of the New South Wales electricity market,
1996 to 1998) into the user's cache. The file travels inside the source archive of scikit-multiflow 0.4.1, so pip
fetches it, through whatever index or mirror this machine is set up for. Both the archive and the file are pinned by
hash: what the demo replays is the same bytes everywhere.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from schemas.errors import ENVIRONMENT, WeirError
from services.local.cache import cache_dir

ARCHIVE = "scikit-multiflow==0.4.1"
ARCHIVE_SHA256 = "ed4f791107cb7f789f0bb0620c50e743a4d397905146a4d06c62eb98607aa101"
PIP_FIX = "check that pip reaches its index from here (`pip config list` shows which), then run `make setup` again"
FOLDER = "scikit-multiflow-0.4.1/src/skmultiflow/data/datasets"
ELEC_SHA256 = "ebdfe5480ae25a43a7d054286135e3a9484697a2850d5158a333b1578c28bb97"
WEATHER_SHA256 = "3c38f05bdc5c4cb115f122414c66976e3662c875d96d7199d9e47fc46aff150e"


class DatasetMissing(WeirError):
    """A data set is not in the cache, or could not be brought there."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message, fix=fix, code=ENVIRONMENT)


def elec2() -> Path:
    """Return the path of ``elec.csv``: a header and 45,312 rows, oldest first.

    Raises:
        DatasetMissing: it is absent, or its bytes are not the pinned ones. Nothing is downloaded here.
    """
    return _kept("elec.csv", ELEC_SHA256)


def fetch_elec2() -> Path:
    """Download ``elec.csv`` into the cache unless it is already there; return its path.

    The file appears whole or not at all, so two set-ups at once, or one cut short, do no harm.

    Raises:
        DatasetMissing: pip could not fetch the archive, or its content is not the pinned one.
    """
    return _fetched("elec.csv", ELEC_SHA256)


def fetch_weather() -> Path:
    """Download ``weather.csv`` (18,159 days at an air base in Nebraska, 1949 to 1999: did it rain?), as `fetch_elec2`.

    Set-up leaves it out: only a benchmark wants it.
    """
    return _fetched("weather.csv", WEATHER_SHA256)


def _kept(name: str, sha256: str) -> Path:
    path = cache_dir("datasets") / name
    if not path.is_file():
        raise DatasetMissing(f"{name} is not at {path}", fix="run `make setup`, which downloads it (15.5 MB)")
    found = _sha256(path.read_bytes())
    if found != sha256:
        raise DatasetMissing(
            f"{path} is not the pinned file: expected sha256 {sha256}, found {found}",
            fix="run `make setup`, which downloads it again",
        )
    return path


def _fetched(name: str, sha256: str) -> Path:
    try:
        return _kept(name, sha256)
    except DatasetMissing:
        pass  # absent or damaged: either way it is written anew
    path = cache_dir("datasets") / name
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        content = _extract(_download(Path(scratch)), name)
        found = _sha256(content)
        if found != sha256:
            raise DatasetMissing(f"{name} in {ARCHIVE} has sha256 {found}, expected {sha256}: not kept")
        partial = Path(scratch) / path.name
        partial.write_bytes(content)
        os.replace(partial, path)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _download(directory: Path) -> Path:
    """Let pip fetch the source archive; hash checking needs a requirements file, the command line has no option."""
    wanted = directory / "wanted.txt"
    wanted.write_text(f"{ARCHIVE} --hash=sha256:{ARCHIVE_SHA256}\n")
    # pip asks the archive for its metadata, and this old setup.py imports numpy and setuptools to answer: both are
    # in our environment, so it may use that one (no isolation) and need not build another.
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    done = subprocess.run(
        [*pip, "--dest", str(directory), "--requirement", str(wanted)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(directory.glob("scikit*multiflow-*.tar.gz"))
    if done.returncode != 0 or len(archives) != 1:
        reason = done.stderr.strip() or done.stdout.strip() or "pip said nothing"
        raise DatasetMissing(f"pip could not download {ARCHIVE} (exit code {done.returncode}): {reason}", fix=PIP_FIX)
    return archives[0]


def _extract(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        try:
            member = tar.extractfile(f"{FOLDER}/{name}")
        except KeyError:
            member = None
        if member is None:
            raise DatasetMissing(f"{archive.name} holds no file {FOLDER}/{name}")
        return member.read()


def main(argv: list[str] | None = None) -> int:
    """Fetch the data sets; exit code 0 when they are there, 3 with the reason on standard error otherwise."""
    parser = argparse.ArgumentParser(prog="python -m services.local.datasets", description="Fetch the demo's data.")
    parser.parse_args(argv)
    try:
        path = fetch_elec2()
    except DatasetMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    print(f"Elec2: ready, {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
