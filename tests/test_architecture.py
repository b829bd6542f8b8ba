"""The house rules that a machine can hold: imports point downwards, heavy libraries stay out of the way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "audiossl"

# Lower rooms first; a room may import its own files (plug-ins aside) and everything below.
LAYERS = [
    {"config", "registry", "contracts", "files"},
    {"losses", "margins", "metrics", "nn", "data"},
    {"encoders"},
    {"objectives", "tasks", "adapters"},
    {"interop"},
    {"train", "verification", "diagnostics", "units"},
    {"superb"},
    {"cli"},
]
PLUGINS = {"losses", "margins", "metrics", "encoders", "objectives", "tasks", "adapters"}
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "audiossl" and len(parts) > 1 and parts[1] in RANK:
            yield parts[1], parts[2] if len(parts) > 2 else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    room = path.relative_to(PACKAGE).parts[0]
    for other, _ in own_imports(path):
        assert RANK[other] <= RANK[room], f"{path.name} of {room} imports {other}, which is above it"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name in PLUGINS], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_plugins_do_not_import_siblings(path):
    siblings = {other.stem for other in path.parent.glob("*.py")} - {path.stem}
    for room, name in own_imports(path):
        shared = name.startswith("_")
        assert room != path.parent.name or shared or name not in siblings, f"{path.stem} imports its sibling {name}"


def test_every_room_has_a_place():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set(RANK)


def modules_after(statement):
    code = f"import sys\n{statement}\nprint(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_command_line_starts_without_heavy_libraries():
    loaded = modules_after("import audiossl.cli.main as m; m.verbs()")
    assert not loaded & {"torch", "numpy", "librosa", "transformers", "faiss", "matplotlib", "tensorboard", "scipy"}


def test_library_imports_neither_torchaudio_nor_s3prl():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.stem != "__init__"]
    loaded = modules_after("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))
    assert not loaded & {
        "torchaudio",
        "s3prl",
        "torchvision",
        "torchcodec",
        "espeakng_loader",
        "librosa",
        "transformers",
        "faiss",
    }


@pytest.mark.parametrize(
    "room", sorted({path.parent for path in FILES} - {PACKAGE / "cli"}), ids=lambda path: path.name
)
def test_files_are_in_the_table_of_the_architecture(room):
    """Plug-ins, verbs and what begins with `_` aside, which say themselves what they are."""
    if room.name in PLUGINS | {"analyses", "formats"}:
        pytest.skip("one file for each plug-in")
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    names = [path.name for path in room.glob("*.py") if not path.name.startswith("_")]
    assert [name for name in names if f"`{name}`" not in text and f"/{name}`" not in text] == []
