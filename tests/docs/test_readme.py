"""The README runs: its Python as doctests, its policy through the parser, its commands exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from schemas.policy import JoinPolicy
from services.cli.policy import read_policies

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_give_what_they_say(block: str) -> None:
    test = doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0)
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("block", blocks("toml"))
def test_policies_are_valid(block: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(block, encoding="utf-8")
    commands = read_policies(file, now_ms=1_767_225_600_000)
    assert len(commands) == 2
    assert isinstance(commands[0].policy, JoinPolicy)


def commands() -> list[list[str]]:
    lines = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    inline = [found.split() for found in re.findall(r"`((?:weir|make) [^`]+)`", README)]
    return [words for words in [*lines, *inline] if words]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_exist(words: list[str]) -> None:
    from typer.main import get_command

    from services.cli.app import app

    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets
        return
    assert words[0] == "weir"
    command = get_command(app)
    for word in words[1:]:
        known = getattr(command, "commands", None)
        if known is None or word.startswith("-"):
            break
        assert word in known, f"no command {' '.join(words)}"
        command = known[word]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_policy_page_lists_every_field_with_its_default_and_its_example_is_valid(tmp_path: Path) -> None:
    import msgspec

    from schemas.lifecycle import DecidePolicy
    from schemas.policy import Attribution, LabelRule

    page = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
    for struct in (JoinPolicy, Attribution, LabelRule, DecidePolicy):
        for field in msgspec.structs.fields(struct):
            if field.name == "v":
                continue
            default = field.default if field.default is not msgspec.NODEFAULT else None
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            shown = "**required**" if field.required else f"`{default!r}`"
            assert f"| `{field.name}` | {shown} |" in page, field.name
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "ctr.toml").write_text(example, encoding="utf-8")
    first = read_policies(tmp_path / "ctr.toml", now_ms=0)
    again = read_policies(tmp_path / "ctr.toml", now_ms=0, known={("join", "ctr", "ctr"): {1: first[0].policy}})
    assert [one.policy.version for one in (*first, *again)] == [1, 1, 2, 1]
    assert {one.policy.name for one in first} == {"ctr"}
