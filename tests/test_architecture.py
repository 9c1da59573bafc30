"""The floors of the house, read out of the source with `ast`: imports point downward, heavy libraries stay upstairs."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpg_vl"

FLOORS = {
    5: ["cli", "__main__", "display"],
    4: ["training", "benchmark", "recorded", "figures", "comparison", "preparing", "report", "audit"],
    3: ["rollout", "policy"],
    2: ["tables", "samples", "prompts", "estimators", "verifiers", "average_precision", "exploits", "recipes", "journal", "clock"],
    1: [
        "intervals",
        "types",
        "gpg",
        "boxes",
        "answers",
        "statements",
        "prose",
        "quantities",
        "box_texts",
        "seeds",
        "plugins",
        "shelves",
        "config",
        "loading",
    ],
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}
SIDEWAYS = [("policy", "rollout"), ("benchmark", "training")]
"""(lower, upper) of two parts on one floor where the architecture draws an arrow: the lower never imports the upper."""
WITHOUT_TORCH = ["verifiers", "samples", "recipes", "journal", "report"]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def _part(module: str) -> str:
    """The file or folder of gpg_vl that a module belongs to; empty for gpg_vl itself."""
    return ".".join(module.split(".")[1:2])


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imported(node: ast.AST) -> list[str]:
    """What one statement imports, as full module names; import_module("name") counts as well."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        return [node.module or "", *(name for name in inner if name in TREES)]
    called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
    if called == "import_module" and isinstance(node.args[0], ast.Constant):
        return [str(node.args[0].value)]
    return []


def _imports(node: ast.AST, *, inside_functions: bool = True) -> set[str]:
    """Modules that a tree imports while it runs, so without TYPE_CHECKING blocks."""
    found = set(_imported(node))
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not _only_for_types(child) and (inside_functions or not is_function):
            found |= _imports(child, inside_functions=inside_functions)
    return found


def _own(names: set[str]) -> set[str]:
    return {name for name in names if name in TREES}


def _libraries(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _tell(offences: list[str]) -> None:
    assert not offences, "\n".join(offences)


def test_every_module_has_a_floor():
    homeless = [module for module in TREES if module != "gpg_vl" and _part(module) not in FLOOR_OF]
    _tell([f"{module}: on no floor; give {_part(module)} its place in architecture.md and here." for module in homeless])


def test_imports_are_absolute():
    relative = [module for module, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    _tell([f"{module}: imports with a leading dot; write gpg_vl.<name>, so that a search finds it." for module in relative])


def test_imports_point_downward():
    offences: list[str] = []
    for module, tree in TREES.items():
        part = _part(module)
        for target in sorted({_part(name) for name in _own(_imports(tree))}):
            if FLOOR_OF.get(target, 0) > FLOOR_OF.get(part, 0) or (part, target) in SIDEWAYS:
                offences.append(f"{module}: imports {target}, which stands above {part or 'the package'}; move what it needs down.")
    _tell(offences)


def test_no_import_cycles_at_module_level():
    graph = {module: _own(_imports(tree, inside_functions=False)) - {module} for module, tree in TREES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        raise AssertionError(f"These modules import each other in a circle: {' -> '.join(reversed(cycle.args[1]))}.") from None


def test_heavy_libraries_stay_on_their_floors():
    offences: list[str] = []
    for module, tree in TREES.items():
        floor, libraries = FLOOR_OF.get(_part(module), 0), _libraries(_imports(tree))
        allowed = {
            "torch": floor in (3, 4) or module in ("gpg_vl.methods.gpg", "gpg_vl.methods.estimator"),
            "transformers": floor >= 3,
            "peft": floor >= 3,
            "vllm": module.startswith("gpg_vl.rollout.vllm_"),
            "accelerate": floor == 4,
        }
        offences += [
            f"{module}: imports {lib}, which floor {floor} must not." for lib in sorted(libraries & allowed.keys()) if not allowed[lib]
        ]
    _tell(offences)


def test_vllm_is_imported_only_inside_functions():
    offenders = [module for module, tree in TREES.items() if "vllm" in _libraries(_imports(tree, inside_functions=False))]
    _tell([f"{module}: imports vllm at module level; import it inside the function that needs it." for module in offenders])


def _loaded_with(module: str) -> dict[str, set[str]]:
    """Every gpg_vl module that importing this one runs, with what each of them imports at module level."""
    seen: dict[str, set[str]] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen[current] = _imports(TREES[current], inside_functions=False)
            steps = current.split(".")
            waiting += [*_own(seen[current]), *(".".join(steps[:end]) for end in range(1, len(steps)))]
    return seen


def test_parts_for_workers_and_laptops_load_no_torch():
    offences: list[str] = []
    for module in TREES:
        if _part(module) in WITHOUT_TORCH:
            carriers = [name for name, imports in _loaded_with(module).items() if "torch" in _libraries(imports)]
            offences += [f"{module}: importing it imports torch through {carrier}." for carrier in carriers]
    _tell(offences)


def test_no_file_is_a_drawer_for_leftovers():
    drawers = [path for path in PACKAGE.rglob("*") if path.stem in ("utils", "common", "misc", "helpers")]
    _tell([f"{path.relative_to(ROOT)}: name it after what it does." for path in drawers])


def test_no_module_repeats_the_name_of_a_shelf():
    shelves = ("data", "configs", "evaluation")
    _tell([f"{module}: has the name of a shelf; name it after what it does." for module in TREES if module.split(".")[-1] in shelves])


def test_shelves_hold_no_python():
    found = [path for shelf in ("data", "configs", "evaluation") for path in (ROOT / shelf).rglob("*.py")]
    _tell([f"{path.relative_to(ROOT)}: shelves hold specs and rows; Python lives in gpg_vl/." for path in found])


def test_every_module_says_what_it_is():
    _tell(
        [f"{module}: has no docstring on top; say in one line what it is." for module, tree in TREES.items() if not ast.get_docstring(tree)]
    )


def _definitions(node: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [child for child in node.body if isinstance(child, kinds) and not child.name.startswith("_")]


def _promised() -> set[str]:
    """The methods that a protocol or an abstract class of the package explains once for all who write them."""
    classes = [node for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    promises = [node for node in classes if {ast.unparse(base) for base in node.bases} & {"Protocol", "ABC"}]
    return {method.name for node in promises for method in _definitions(node) if ast.get_docstring(method)}


def test_everything_public_is_explained():
    promised, offences = _promised(), list[str]()
    for module, tree in TREES.items():
        for node in _definitions(tree):
            inside = _definitions(node) if isinstance(node, ast.ClassDef) else []
            if not ast.get_docstring(node):
                offences.append(f"{module}.{node.name}: has no docstring; say in one line what it is.")
            dumb = [child.name for child in inside if not ast.get_docstring(child) and child.name not in promised]
            offences += [f"{module}.{node.name}.{name}: has no docstring and no protocol explains it." for name in dumb]
    _tell(offences)


IMPORT = """
import sys, time
start = time.process_time()
import gpg_vl
print(time.process_time() - start, *sorted({name.split(".")[0] for name in sys.modules} & {"torch", "pydantic", "transformers", "numpy"}))
"""


def test_importing_the_package_is_light():
    answers = [subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, cwd=ROOT) for _ in range(3)]
    seconds, loaded = zip(*((float(words[0]), words[1:]) for words in (answer.stdout.split() for answer in answers)), strict=True)
    assert loaded == ([], [], []), f"import gpg_vl loads {loaded[0]}"
    assert min(seconds) < 0.2, f"import gpg_vl takes {min(seconds):.2f} s, allowed are 0.2 s"
