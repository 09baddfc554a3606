"""What lies in the cache is what the lock names, or nothing."""

import hashlib
import re
from pathlib import Path

import pytest

from services.local import jars
from services.local.jars import JarsUnavailable, ensure_jars, jar_directory, read_lock

GOOD = {"g:one:1.0": b"first jar", "g:two:2.0": b"second jar"}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "kafka.lock.toml"
    path.write_text(
        "".join(
            f'[[jar]]\ncoordinate = "{name}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\nbytes = {len(data)}\n'
            for name, data in GOOD.items()
        )
    )
    return path


class Repository:
    """Serves the contents it is given and counts the downloads."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.asked: list[str] = []

    def download(self, jar: jars.Jar, into: Path) -> Path:
        self.asked.append(jar.coordinate)
        if jar.coordinate not in self.contents:
            raise RuntimeError("HTTP 503")
        into.mkdir(parents=True, exist_ok=True)
        path = into / jar.file_name
        path.write_bytes(self.contents[jar.coordinate])
        return path


def served(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> Repository:
    repository = Repository(contents)
    monkeypatch.setattr(jars, "_download", repository.download)
    return repository


def test_fetches_once_and_says_how_much_first(tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, said = served(monkeypatch, GOOD), list[str]()
    paths = ensure_jars(tmp_path, say=said.append, lock=lock)
    assert [path.read_bytes() for path in paths] == list(GOOD.values())
    assert "downloading 2 jars" in said[0]
    said.clear()
    assert ensure_jars(tmp_path, say=said.append, verify=True, lock=lock) == paths
    assert len(repository.asked) == 2
    assert said == []
    assert {path.name for path in paths[0].parent.iterdir()} == {path.name for path in paths}


def test_a_wrong_jar_is_refused_and_not_kept(tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = served(monkeypatch, {**GOOD, "g:two:2.0": b"altered !!"})
    with pytest.raises(JarsUnavailable, match=r"g:two:2\.0 is not the jar .*: expected sha256 .* came"):
        ensure_jars(tmp_path, lock=lock)
    assert repository.asked.count("g:two:2.0") == 2
    assert not (jar_directory(tmp_path, lock) / "two-2.0.jar").exists()
    assert (jar_directory(tmp_path, lock) / "one-1.0.jar").exists()


def test_without_a_network_says_what_to_do_and_goes_on_later(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(monkeypatch, {"g:one:1.0": b"first jar"})
    with pytest.raises(JarsUnavailable, match=r"g:two:2\.0 .*HTTP 503.*network.*finished jars are kept"):
        ensure_jars(tmp_path, lock=lock)
    repository = served(monkeypatch, GOOD)
    ensure_jars(tmp_path, lock=lock)
    assert repository.asked == ["g:two:2.0"]


def test_verify_replaces_a_jar_that_went_bad_on_disk(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = served(monkeypatch, GOOD)
    paths = ensure_jars(tmp_path, lock=lock)
    paths[0].write_bytes(b"FIRST jar")
    ensure_jars(tmp_path, lock=lock)
    assert len(repository.asked) == 2  # same size: trusted at a start
    assert ensure_jars(tmp_path, verify=True, lock=lock)[0].read_bytes() == b"first jar"


def test_the_committed_lock_is_whole_and_names_no_host() -> None:
    locked = read_lock()
    assert f"org.apache.kafka:kafka-clients:{jars.KAFKA_VERSION}" in [jar.coordinate for jar in locked]
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in locked)
    assert len({jar.file_name for jar in locked}) == len(locked)
    assert "://" not in jars.LOCK_PATH.read_text()
    versions = {jar.coordinate.split(":")[2] for jar in locked if jar.coordinate.startswith("org.apache.kafka:")}
    assert versions == {jars.KAFKA_VERSION}  # jgo once took an old kafka-clients from log4j's build
