"""The house: every room looks down, nothing goes in circles, and opening the front door costs nothing."""

import ast
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import tightrope

PACKAGE = Path(tightrope.__file__).parent
ROOF = "the roof"
FLOORS = {
    "errors": 0,
    "parameters": 1,
    "targets": 1,
    "store": 1,
    "theory": 1,
    "optim": 2,
    "curvature": 2,
    "problems": 2,
    "views": 2,
    "stability": 3,
    "doctor": 4,
    "training": 4,
    "monitor": 4,
    "integrations": 5,
    "serve": 5,
    "lessons": 5,
    "studies": 6,
    "cli": 7,
    ROOF: 8,
}
GUESTS = {"lessons"}  # they import the library like any user: `import tightrope as tr`
HOMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
HEAVY = ("torch", "matplotlib", "plotly", "sklearn", "starlette", "uvicorn", "lightning", "transformers")
HEAVY += ("tensorboard", "wandb", "mlflow", "trackio", "ray")


@dataclass(frozen=True)
class Import:
    """One import statement inside the package: who, whom, which names, and how it is written."""

    importer: str
    target: str
    names: tuple[str, ...]
    line: int
    is_relative: bool
    is_at_top: bool


def modules_of(package):
    """Path of each module, by its dotted name without the package's own: "" is the package itself."""
    paths = sorted(package.rglob("*.py"))
    return {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").strip("."): path
        for path in paths
    }


def room_of(module):
    room = module.split(".")[0]
    return ROOF if room in ("", "__main__") else room


def imports_of(package):
    found = []
    modules = modules_of(package)
    for module, path in modules.items():
        for each in read_imports(package.name, module, path):
            rooms = [] if each.target else [name for name in each.names if name in modules]
            found += [replace(each, target=room, names=()) for room in rooms]
            if not rooms:
                found.append(each)
    return found


def read_imports(package_name, module, path):
    """Imports from the package, with targets relative to it; `from house import room` still names the roof."""
    tree = ast.parse(path.read_text())
    inside_functions = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(outer)
    }
    here = module.split(".") if module else []
    folder = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree):
        is_at_top = id(node) not in inside_functions
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package_name:
                    target = ".".join(alias.name.split(".")[1:])
                    yield Import(module, target, (), node.lineno, False, is_at_top)
        elif isinstance(node, ast.ImportFrom):
            stem = node.module.split(".") if node.module else []
            if node.level:
                target = folder[: len(folder) - node.level + 1] + stem
            elif stem[0] == package_name:
                target = stem[1:]
            else:
                continue
            names = tuple(alias.name for alias in node.names)
            yield Import(module, ".".join(target), names, node.lineno, node.level > 0, is_at_top)


def floor_violations(package):
    """Imports of a room that does not lie on a lower floor, wherever the import statement stands."""
    found = []
    for each in imports_of(package):
        own, other = room_of(each.importer), room_of(each.target)
        if own in (other, ROOF) or (other == ROOF and own in GUESTS):
            continue
        if own not in FLOORS or other not in FLOORS:
            found.append(f"{each.importer}:{each.line}: {own} -> {other}: a room has no floor")
        elif FLOORS[other] >= FLOORS[own]:
            found.append(f"{each.importer}:{each.line}: {own} looks up or sideways at {other}")
    return found


def circle(package):
    """Modules that import each other in a circle when they are loaded, or nothing."""
    modules = modules_of(package)
    graph = {module: set() for module in modules}
    for each in imports_of(package):
        if each.is_at_top:
            submodules = {f"{each.target}.{name}".strip(".") for name in each.names} & modules.keys()
            graph[each.importer] |= submodules or {each.target}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def wall_violations(package):
    """Imports that do not show whether they cross a wall, or that reach behind a room's public names."""
    found = []
    modules = modules_of(package)
    for each in imports_of(package):
        own, other = room_of(each.importer), room_of(each.target)
        where = f"{each.importer}:{each.line}"
        if own == ROOF or (other == ROOF and own in GUESTS):
            continue
        if own == other:
            if not each.is_relative:
                found.append(f"{where}: inside a room write `from .module import name`")
        elif each.is_relative or "." in each.target or not each.names:
            found.append(f"{where}: into another room write `from {package.name}.{other} import name`")
        else:
            public = public_names(modules.get(other))
            found += [f"{where}: {name} is no public name of {other}" for name in each.names if name not in public]
    return found


def public_names(path):
    """What a room lists in `__all__`; a room of one file without a list shows all it defines, less underscores."""
    body = ast.parse(path.read_text()).body if path else []
    for node in body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {t.id for node in body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    return {name for name in defined if not name.startswith("_")}


def door_violations(package):
    """Rooms whose `__init__.py` does not say what the room is for and list its public names."""
    found = []
    for module, path in modules_of(package).items():
        if path.name == "__init__.py" and module:
            tree = ast.parse(path.read_text())
            if not ast.get_docstring(tree):
                found.append(f"{module}: __init__.py has no docstring")
            if not public_names(path) or "__all__" not in path.read_text():
                found.append(f"{module}: __init__.py has no __all__")
    folders = {path.parent for path in modules_of(package).values()}
    return found + [f"{folder.name}: no __init__.py" for folder in folders if not (folder / "__init__.py").exists()]


def name_violations(package):
    """Files and folders named as if they had no home."""
    parts = {part for path in modules_of(package).values() for part in path.relative_to(package).with_suffix("").parts}
    return sorted(parts & HOMELESS)


RULES = [floor_violations, circle, wall_violations, door_violations, name_violations]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert rule(PACKAGE) == []


def test_every_room_has_a_floor():
    assert {room_of(module) for module in modules_of(PACKAGE)} <= FLOORS.keys()


# Each rule sees a violation that is put there for it to see.

HOUSE = {
    "__init__.py": '"""The house."""\n',
    "errors.py": "class Oops(Exception): ...\n",
    "curvature/__init__.py": '"""Bends."""\nfrom .bend import bend\n__all__ = ["bend"]\n',
    "curvature/bend.py": "from house.errors import Oops\ndef bend(): ...\ndef other(): ...\n",
    "stability/__init__.py": '"""Falls."""\nfrom .fall import fall\n__all__ = ["fall"]\n',
    "stability/fall.py": "from house.curvature import bend\ndef fall(): ...\n",
    "lessons/__init__.py": '"""Teaches."""\nimport house\n__all__ = ["teach"]\n',
    "cli.py": "def main():\n    from house.stability import fall\n",
    "__main__.py": "from house.cli import main\n",
}

VIOLATIONS = {
    "looks up": (floor_violations, "curvature/bend.py", "from house.stability import fall", "curvature looks up"),
    "looks sideways": (floor_violations, "optim.py", "from house.curvature import bend", "optim looks up or sideways"),
    "looks up from a function": (
        floor_violations,
        "curvature/bend.py",
        "def late():\n    from house.stability import fall",
        "curvature looks up",
    ),
    "looks up relatively": (floor_violations, "curvature/bend.py", "from ..stability.fall import fall", "looks up"),
    "looks up as a whole": (floor_violations, "curvature/bend.py", "import house.stability.fall", "looks up"),
    "looks at the roof": (floor_violations, "curvature/bend.py", "from house import measure", "at the roof"),
    "has no floor": (floor_violations, "attic/__init__.py", "from house.errors import Oops", "a room has no floor"),
    "circle of two": (circle, "curvature/bend.py", "from .knot import tie", "curvature.knot"),
    "circle through the door": (circle, "curvature/bend.py", "from house.curvature import bend", "curvature.bend"),
    "circle by name": (circle, "curvature/bend.py", "from . import knot", "curvature.knot"),
    "behind the door": (
        wall_violations,
        "stability/fall.py",
        "from house.curvature.bend import other",
        "into another room write `from house.curvature import name`",
    ),
    "relative through a wall": (wall_violations, "stability/fall.py", "from ..curvature import bend", "another room"),
    "whole room": (wall_violations, "stability/fall.py", "import house.curvature", "into another room"),
    "room from the roof": (wall_violations, "stability/fall.py", "from house import curvature", "into another room"),
    "not public": (
        wall_violations,
        "stability/fall.py",
        "from house.curvature import other",
        "other is no public name of curvature",
    ),
    "absolute at home": (wall_violations, "stability/fall.py", "from house.stability.fall import x", "inside a room"),
    "no docstring": (door_violations, "optim/__init__.py", "__all__ = ['x']", "no docstring"),
    "no list": (door_violations, "optim/__init__.py", '"""Steps."""', "no __all__"),
    "no door": (door_violations, "optim/rule.py", "x = 1", "optim: no __init__.py"),
    "no home": (name_violations, "curvature/utils.py", "x = 1", "utils"),
}


def build_house(folder, files):
    package = folder / "house"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_house_in_order_has_no_violations(rule, tmp_path):
    assert rule(build_house(tmp_path, HOUSE)) == []


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_is_seen(violation, tmp_path):
    rule, name, line, expected = VIOLATIONS[violation]
    files = HOUSE | {"curvature/knot.py": "from .bend import bend\ndef tie(): ...\n"}
    files[name] = files.get(name, "") + line + "\n"
    found = rule(build_house(tmp_path, files))
    assert len(found) >= 1
    assert expected in " ".join(found)


def test_an_import_inside_a_function_makes_no_circle(tmp_path):
    late = "from .bend import bend\ndef tie(): ...\n"
    files = HOUSE | {"curvature/knot.py": late}
    files["curvature/bend.py"] += "def late():\n    from .knot import tie\n"
    assert circle(build_house(tmp_path, files)) == []


# The front door


@pytest.mark.parametrize("module", ["tightrope", "tightrope.cli"])
def test_importing_it_loads_nothing_heavy(module):
    if module == "tightrope.cli" and "cli" not in modules_of(PACKAGE):
        pytest.skip("tightrope.cli is not there")
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_the_check_of_loaded_modules_sees_a_heavy_one():
    code = f"import sys, tightrope; tightrope.freeze; print(*(name for name in {HEAVY} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" in result.stdout.split()


@pytest.mark.parametrize("name", tightrope.__all__)
def test_every_public_name_resolves(name):
    assert getattr(tightrope, name) is not None
    assert name in dir(tightrope)


@contextmanager
def missing_framework_allowed():
    try:
        yield
    except ImportError as error:
        if "Install tightrope[" not in str(error):
            raise


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_every_public_name_of_a_room_resolves(room):
    module = import_module(f"tightrope.{room}")
    for name in module.__all__:
        with missing_framework_allowed():
            assert hasattr(module, name)
    assert len(set(module.__all__)) == len(module.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'tightwire'"):
        tightrope.tightwire  # noqa: B018
