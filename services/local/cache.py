"""Where downloads are kept between runs: one directory per user, shared by every checkout."""

import os
from pathlib import Path

import platformdirs


def cache_dir(room: str) -> Path:
    """Return (and create) the directory for one kind of download, e.g. ``datasets``.

    ``WEIR_CACHE_DIR`` moves all of them; without it they lie in the platform's cache directory. Everything in it can be
    fetched again, so a user may delete it at any time.

    >>> getfixture("monkeypatch").setenv("WEIR_CACHE_DIR", str(getfixture("tmp_path")))
    >>> cache_dir("datasets").relative_to(getfixture("tmp_path"))
    PosixPath('datasets')
    """
    root = os.environ.get("WEIR_CACHE_DIR") or platformdirs.user_cache_dir("weir")
    directory = Path(root).expanduser() / room
    directory.mkdir(parents=True, exist_ok=True)
    return directory
