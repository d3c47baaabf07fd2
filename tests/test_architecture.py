"""The direction of imports, and what `import signforge` may load."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import signforge

PACKAGE = Path(signforge.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[1]
# Code outside the package that uses it, and that no type checker reads.
USERS = ("benchmarks", "examples", "notebooks", "plugins")
ROOMS = ("data", "classify", "gan", "balance", "export", "evaluate", "benchmark")
FOUNDATION = {
    *("errors", "yaml_text", "config", "progress", "files", "device", "environment", "seeds"),
    *("plugins", "allocator", "tensor_state", "config_file"),
}
TOP = {"cli", "terminal", "live", "testing", "__main__"}


def imported_modules(path: Path) -> set[str]:
    """Every signforge module that a file names in an import, wherever in the file."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add(node.module or "")
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in modules if module.split(".")[0] == "signforge"}


def rank(module: str) -> int:
    """Height of a module in the house: foundation 0, rooms 1.., command line on top."""
    parts = module.split(".")
    if len(parts) == 1:
        return 0
    if parts[1] in FOUNDATION:
        return 0
    if parts[1] in ROOMS:
        return 1 + ROOMS.index(parts[1])
    if parts[1] in TOP:
        return 1 + len(ROOMS)
    return -1


def source_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_lower_rooms_never_import_upper_ones(path: Path) -> None:
    own = rank("signforge." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    assert own >= 0, f"{path} is in no room: add it to FOUNDATION, ROOMS or TOP"
    upper = {m for m in imported_modules(path) if m.count(".") >= 1 and rank(m) > own}
    assert not upper


def test_every_room_exists() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == {*ROOMS, "cli", "testing"}


def test_modules_of_a_room_do_not_import_in_circles() -> None:
    graph = {
        "signforge." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): imported_modules(
            path
        )
        for path in source_files()
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in finished or module not in graph:
            return
        for target in graph[module]:
            visit(target, (*trail, module))
        finished.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    "module", ["typer", "rich", "timm", "matplotlib", "torchmetrics", "huggingface_hub"]
)
def test_import_signforge_stays_light(module: str) -> None:
    code = (
        "import sys, signforge; signforge.SyntheticBalancedDataset; signforge.load_sampler; "
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def names_from_signforge(text: str) -> set[tuple[str, str]]:
    """(module, name) of each ``from signforge... import name``."""
    return {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.split(".")[0] == "signforge"
        for alias in node.names
    }


def missing_names(names: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that ``from module import name`` would not find."""

    def exists(module: str, name: str) -> bool:
        if hasattr(importlib.import_module(module), name):
            return True
        try:
            importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            return False
        return True

    return {(module, name) for module, name in names if not exists(module, name)}


@pytest.mark.parametrize("folder", USERS)
def test_what_users_of_the_package_import_exists(folder: str) -> None:
    """Also where the extra that runs the file is not installed, as for the notebook."""
    texts = [path.read_text(encoding="utf-8") for path in (REPOSITORY / folder).rglob("*.py")]
    names = set().union(*map(names_from_signforge, texts))
    assert names
    assert missing_names(names) == set()


def test_the_test_would_see_a_name_that_has_moved() -> None:
    names = names_from_signforge("from signforge.benchmark.tables import Table, fidelity_table")
    assert missing_names(names) == {("signforge.benchmark.tables", "fidelity_table")}
