"""A Java program for one peer: its sources and pinned pom, built by Maven in the cache, never in the repository."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Unavailable

BUILD_S = 600
JAVA = 17
FLAGS = ("-Xms256m", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError")


def build(cache: Path, sources: Path, *, heap: str, flags: Sequence[str] = ()) -> list[str]:
    """Build `sources` (pom.xml and src/) in `cache` unless that is done; give the command that runs `peer.Main`.

    Raises `Unavailable` when Java or Maven is missing or too old, or the build fails.
    """
    java, compiler, maven = (shutil.which(name) for name in ("java", "javac", "mvn"))
    if not (java and compiler and maven):
        raise Unavailable(f"a JDK ({JAVA} or newer) and Maven are needed to build it: java, javac and mvn on the PATH")
    if (found := _major(java)) < JAVA:
        raise Unavailable(f"Java {JAVA} or newer is needed, java is {found}")
    files = [sources / "pom.xml", *sorted((sources / "src").rglob("*.*"))]
    stamp = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]
    home = cache / f"build-{stamp}"
    target, done = home / "target", home / ".done"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copy(sources / "pom.xml", home)
        shutil.copytree(sources / "src", home / "src")
        _package(maven, home)
        done.touch()
    classpath = f"{target / 'classes'}:{target / 'lib'}/*"
    return [java, *FLAGS, f"-Xmx{heap}", *flags, "-cp", classpath, "peer.Main"]


def _package(maven: str, home: Path) -> None:
    words = [maven, "--batch-mode", "--quiet", "package"]
    try:
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"mvn package took longer than {BUILD_S} s") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        raise Unavailable(f"mvn package: {said[0].strip()[:200] if said else f'status {done.returncode}'}")


def _major(java: str) -> int:
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', said.stderr + said.stdout)
    return int(found.group(1)) if found else 0
