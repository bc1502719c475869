"""The packages import each other in one direction, and the command line loads nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("darla", "envs", "agents", "benchmarks")
"""Each may import itself and those before it."""
SEE_ALL = ("darla/cli.py", "darla/pipeline.py")
MODULES = sorted(
    str(path.relative_to(ROOT)) for name in ORDER for path in (ROOT / name).rglob("*.py")
)


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Yields what a module imports, and whether it does so as soon as it is imported itself."""
    tree = ast.parse(source)
    inner = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    guarded = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module or ""]
        for name in names:
            yield name.partition(".")[0], id(node) not in inner | guarded


def test_imports_are_found_wherever_they_stand() -> None:
    source = (
        "import agents.dqn\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from envs.lab import Lab\n"
        "def f():\n    import torch\n"
    )
    assert list(imports(source)) == [
        ("agents", True), ("typing", True), ("envs", False), ("torch", False),
    ]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_no_package_imports_one_that_builds_on_it(module: str) -> None:
    package = module.partition("/")[0]
    above = ORDER[ORDER.index(package) + 1 :]
    found = [(name, at_once) for name, at_once in imports((ROOT / module).read_text())]
    if module in SEE_ALL:
        found = [(name, at_once) for name, at_once in found if at_once]
    assert not [name for name, _ in found if name in above]
    assert not [name for name, _ in found if name == "tests"]


def test_the_page_for_contributors_names_files_that_there_are() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text()
    named = [part for part in page.split("`")[1::2] if "/" in part and " " not in part]
    assert len(named) > 15
    assert not [name for name in named if not (ROOT / name).exists()]
