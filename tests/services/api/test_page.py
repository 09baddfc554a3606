"""The page's files: vendored as released, nothing inline, every import there."""

import json
import re
import threading
from hashlib import sha256
from pathlib import PurePosixPath

import pytest
from starlette.testclient import TestClient

from services.api.app import build
from services.api.page import FILES, POLICY, read_files
from tests.services.api.test_auth import NOWHERE

VENDORED = json.loads((FILES / "vendor" / "vendored.json").read_text())


@pytest.mark.parametrize("package", VENDORED, ids=lambda package: str(package["package"]))
def test_vendored_files_are_what_was_released(package: dict[str, list[dict[str, str]]]) -> None:
    for file in package["files"]:
        body = (FILES / "vendor" / file["path"]).read_bytes()
        assert sha256(body).hexdigest() == file["sha256"], file["path"]
    assert any(file["path"].endswith("LICENSE.txt") for file in package["files"])


def test_nothing_is_vendored_without_a_record() -> None:
    known = {file["path"] for package in VENDORED for file in package["files"]} | {"vendored.json"}
    vendor = FILES / "vendor"
    assert {path.relative_to(vendor).as_posix() for path in vendor.rglob("*") if path.is_file()} == known


def test_policy_allows_nothing_inline_and_nothing_foreign() -> None:
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    html = (FILES / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)", html)
    assert not re.search(r"\s(style|on\w+)=", html)
    assert "<style" not in html
    assert not re.search(r'(src|href)="(https?:)?//', html)


def test_every_file_that_is_named_is_served_with_the_policy() -> None:
    client = TestClient(build(NOWHERE, threading.Event()))
    html = client.get("/")
    assert html.headers["Content-Security-Policy"] == POLICY
    wanted = set(re.findall(r'(?:src|href)="(/page/[^"]+)"', html.text))
    seen: set[str] = set()
    while wanted - seen:
        path = (wanted - seen).pop()
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if "javascript" in answer.headers["Content-Type"]:
            for name in re.findall(r"""from ["'](\.[^"']+)["']""", answer.text):
                wanted.add("/" + _joined(PurePosixPath(path).parent, name))
        again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
    assert any(path.endswith("fetch-event-source/parse") for path in seen)  # a vendored import without a suffix


def _joined(folder: PurePosixPath, name: str) -> str:
    return str(folder / name.removeprefix("./")).lstrip("/")


def test_no_path_leads_out_of_the_page() -> None:
    files = read_files()
    assert all(".." not in path for path in files)
    client = TestClient(build(NOWHERE, threading.Event()))
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/vendor/../../run.py"):
        assert client.get(path).status_code == 404
