"""The floors of the house, read out of the source: imports point down, heavy libraries stay up."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpg_vl"

FLOORS = {
    7: ["cli", "__main__", "integrations"],
    6: ["training", "preflight", "report", "api"],
    5: ["evaluation.evaluate"],
    4: ["experiment"],
    3: ["rollout", "policy", "data", "verifiers", "prompts", "methods", "evaluation"],
    2: ["parsing", "config", "run_folder", "boxes", "pictures"],
    1: ["types", "errors", "randomness", "progress", "short_repr"],
}
"""Files and folders of gpg_vl from the top floor down; the longest name counts."""
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}

NEVER = [
    *(("methods", upper) for upper in ("policy", "rollout", "data", "verifiers", "evaluation")),
    *(("prompts", upper) for upper in ("policy", "rollout", "data", "verifiers", "evaluation")),
    *(("verifiers", upper) for upper in ("policy", "rollout", "data", "evaluation")),
    *(("data", upper) for upper in ("policy", "rollout", "evaluation")),
    *(("policy", upper) for upper in ("rollout", "data", "verifiers", "evaluation", "methods")),
    *(("rollout", upper) for upper in ("data", "evaluation", "methods")),
    ("preflight", "training"),
    ("report", "training"),
    ("report", "preflight"),
    ("rollout.vllm.plugin", "policy"),
]
"""(one, other) on one floor: the first never imports the second."""

WITHOUT_TORCH = [
    "verifiers",
    "data",
    "parsing",
    "config",
    "pictures",
    "prompts",
    "run_folder",
    "experiment",
    "api",
    "cli",
    "integrations",
    "report.console",
    "report.display",
    "report.last_screen",
    "report.page",
    "evaluation.records",
    "evaluation.statistics",
    "evaluation.metrics",
    "evaluation.compare",
    "evaluation.benchmark",
    "evaluation.average_precision",
    "evaluation.recorded_answers",
    "evaluation.results",
    "training.resume_check",
    "preflight.plan",
    "preflight.memory",
    "preflight.remedies",
    "preflight.prepare_data",
    "preflight.propose_config",
    "preflight.starting_settings",
]
"""Importing these loads neither torch nor transformers."""

HEAVY = {"torch", "transformers"}

ROOT_FILES = {
    "__init__",
    "__main__",
    "api",
    "boxes",
    "errors",
    "experiment",
    "pictures",
    "progress",
    "prompts",
    "randomness",
    "short_repr",
    "types",
}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def _inside(module: str, part: str) -> bool:
    own = module.removeprefix("gpg_vl.")
    return own == part or own.startswith(f"{part}.")


def _floor(module: str) -> int:
    """The floor of a module; 0 for gpg_vl itself."""
    steps = module.split(".")[1:]
    for end in range(len(steps), 0, -1):
        if ".".join(steps[:end]) in FLOOR_OF:
            return FLOOR_OF[".".join(steps[:end])]
    return 0


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
    """Modules of gpg_vl among these names; a package that only groups others does not count."""
    return {name for name in names if name in TREES and name != "gpg_vl"}


def _libraries(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _report(offences: list[str]) -> None:
    assert not offences, "\n".join(offences)


def test_the_root_holds_about_ten_files():
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == ROOT_FILES, "a new file belongs into a room; see docs/architecture.md"


def test_every_module_has_a_floor():
    homeless = [module for module in TREES if module != "gpg_vl" and not _floor(module)]
    _report([f"{module}: on no floor; give it its place here." for module in homeless])


def test_imports_are_absolute():
    offences: list[str] = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                offences.append(f"{module}: imports with a leading dot; write gpg_vl.<name>.")
    _report(offences)


def test_imports_point_downward():
    offences: list[str] = []
    for module, tree in TREES.items():
        if module == "gpg_vl":
            continue  # the public face; its names are imported at their first use
        for target in sorted(_own(_imports(tree))):
            if _floor(target) > _floor(module):
                offences.append(f"{module}: imports {target}, which is on a higher floor.")
    _report(offences)


@pytest.mark.parametrize(("lower", "upper"), NEVER)
def test_what_must_never_be_imported(lower, upper):
    for part in (lower, upper):
        assert any(_inside(module, part) for module in TREES), f"no module {part}"
    offences: list[str] = []
    for module, tree in TREES.items():
        if _inside(module, lower):
            for target in sorted(_own(_imports(tree))):
                if _inside(target, upper):
                    offences.append(f"{module}: imports {target}; {lower} is below {upper}.")
    _report(offences)


def test_no_import_cycles_at_module_level():
    graph: dict[str, set[str]] = {}
    for module, tree in TREES.items():
        graph[module] = _own(_imports(tree, inside_functions=False)) - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        circle = " -> ".join(reversed(cycle.args[1]))
        raise AssertionError(f"These modules import each other in a circle: {circle}.") from None


def test_heavy_libraries_stay_on_their_floors():
    offences: list[str] = []
    for module, tree in TREES.items():
        floor = _floor(module)
        rooms = [part for part in ("policy", "rollout") if _inside(module, part)]
        allowed = {
            "torch": bool(rooms) or floor >= 5,
            "transformers": bool(rooms) or floor >= 5,
            "peft": bool(rooms) or floor >= 5,
            "vllm": _inside(module, "rollout.vllm"),
            "accelerate": _inside(module, "training") or module == "gpg_vl.report.trackers",
        }
        for library in sorted(_libraries(_imports(tree)) & allowed.keys()):
            if not allowed[library]:
                offences.append(f"{module}: imports {library}, which floor {floor} must not.")
    _report(offences)


def test_vllm_is_imported_only_inside_functions():
    offences: list[str] = []
    for module, tree in TREES.items():
        if "vllm" in _libraries(_imports(tree, inside_functions=False)):
            offences.append(f"{module}: imports vllm at module level; import it where it is used.")
    _report(offences)


def _loaded_with(module: str) -> dict[str, set[str]]:
    """Every module of gpg_vl that importing this one runs, with its imports at module level."""
    seen: dict[str, set[str]] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen[current] = _imports(TREES[current], inside_functions=False)
            steps = current.split(".")
            packages = (".".join(steps[:end]) for end in range(2, len(steps)))
            waiting += [*_own(seen[current]), *packages]
    return seen


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_parts_for_laptops_and_workers_load_no_torch(part):
    modules = [module for module in TREES if _inside(module, part)]
    assert modules, f"no module {part}"
    offences: list[str] = []
    for module in modules:
        for name, imports in _loaded_with(module).items():
            for library in sorted(HEAVY & _libraries(imports)):
                offences.append(f"{module}: importing it imports {library} through {name}.")
    _report(offences)


def test_the_vllm_plugin_loads_nothing_of_the_policy():
    """Every process of a vLLM server imports it; the model there is vLLM's own."""
    loaded = _loaded_with("gpg_vl.rollout.vllm.plugin")
    assert not [name for name in loaded if _inside(name, "policy")]


def test_only_the_experiment_makes_parts_from_names():
    """`plugins.build` turns a name of a config into an object; recipes are read where rows are."""
    allowed = {"gpg_vl.experiment", "gpg_vl.data.sources", "gpg_vl.config.plugins"}
    offences: list[str] = []
    for module, tree in TREES.items():
        if module not in allowed and _makes_parts(tree):
            offences.append(f"{module}: makes a part from a name; experiment.py does that.")
    _report(offences)


def _makes_parts(tree: ast.AST) -> bool:
    """True if a module calls plugins.build or plugins.resolve, under whatever name."""
    home, functions = "gpg_vl.config.plugins", {"build", "resolve"}
    aliases: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if f"{node.module}.{alias.name}" == home:
                    aliases.add(alias.asname or alias.name)
                if node.module == home and alias.name in functions:
                    return True
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Attribute) and node.attr in functions
        if is_call and ast.unparse(node.value) in aliases:
            return True
    return False


@pytest.mark.parametrize(
    ("source", "makes"),
    [
        ("from gpg_vl.config import plugins\nplugins.build(1)", True),
        ("from gpg_vl.config import plugins as p\np.resolve(1)", True),
        ("from gpg_vl.config.plugins import build as b", True),
        ("from gpg_vl.config import plugins\nplugins.source_hash(1)", False),
        ("build(1)", False),
    ],
)
def test_making_parts_is_seen_under_any_name(source, makes):
    assert _makes_parts(ast.parse(source)) == makes


def test_programs_take_an_experiment_and_never_a_config_with_its_folder():
    offences: list[str] = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                names = {argument.arg for argument in arguments}
                if "config" in names and {"folder", "base_dir", "home"} & names:
                    offences.append(f"{module}.{node.name}: config.base_dir is the folder.")
    _report(offences)


def test_no_file_is_a_drawer_for_leftovers():
    drawers = ("utils", "common", "misc", "helpers")
    found = [path for path in PACKAGE.rglob("*") if path.stem in drawers]
    _report([f"{path.relative_to(ROOT)}: name it after what it does." for path in found])


def test_shipped_folders_hold_no_python():
    for folder in ("data", "configs", "evaluation"):
        found = list((ROOT / folder).rglob("*.py"))
        assert not found, f"{found[0]}: specs and rows are there; Python lives in gpg_vl/."


def test_every_module_says_what_it_is():
    mute = [module for module, tree in TREES.items() if not ast.get_docstring(tree)]
    _report([f"{module}: has no docstring on top; say in one line what it is." for module in mute])


def _definitions(
    node: ast.Module | ast.ClassDef,
) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    public = [child for child in node.body if isinstance(child, kinds)]
    return [child for child in public if not child.name.startswith("_")]


def _promised() -> set[str]:
    """Methods that a protocol or an abstract class explains once for all who write them."""
    promised: set[str] = set()
    for tree in TREES.values():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                if bases & {"Protocol", "ABC"}:
                    explained = [item for item in _definitions(node) if ast.get_docstring(item)]
                    promised |= {method.name for method in explained}
    return promised


def test_everything_public_is_explained():
    promised, offences = _promised(), list[str]()
    for module, tree in TREES.items():
        for node in _definitions(tree):
            if not ast.get_docstring(node):
                offences.append(f"{module}.{node.name}: has no docstring.")
            if isinstance(node, ast.ClassDef):
                for child in _definitions(node):
                    if not ast.get_docstring(child) and child.name not in promised:
                        offences.append(f"{module}.{node.name}.{child.name}: has no docstring.")
    _report(offences)


NOT_A_BEGINNING = {"What", "Where", "Whether", "Of", "Who", "Whose", "Why", "How"}


def test_docstrings_begin_with_a_verb_or_a_noun():
    offences: list[str] = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0] in NOT_A_BEGINNING:
                    where = getattr(node, "name", "the module")
                    offences.append(f"{module}: {where}: begins with {words[0]!r}.")
    _report(offences)


def test_functions_stay_under_60_lines():
    offences: list[str] = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                statements = node.body[1:] if ast.get_docstring(node) else node.body
                if not statements:
                    continue
                # without signature and docstring: options of a command explain themselves
                length = (node.end_lineno or 0) - statements[0].lineno + 1
                if length > 60:
                    offences.append(f"{module}.{node.name}: {length} lines; split it.")
    _report(offences)


def test_comprehensions_have_one_level():
    kinds = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    offences: list[str] = []
    for folder in ("gpg_vl", "examples", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, kinds):
                    inner = [child for child in ast.walk(node) if isinstance(child, kinds)]
                    if len(inner) > 1 or len(node.generators) > 1:
                        offences.append(f"{path.relative_to(ROOT)} line {node.lineno}")
    _report(offences)


IMPORT = """
import sys, time
start = time.process_time()
import gpg_vl
heavy = {"torch", "pydantic", "transformers", "numpy"}
print(time.process_time() - start, *sorted({name.split(".")[0] for name in sys.modules} & heavy))
"""


def test_importing_the_package_is_light():
    seconds: list[float] = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, cwd=ROOT
        )
        spent, *loaded = done.stdout.split()
        assert not loaded, f"import gpg_vl loads {loaded}"
        seconds.append(float(spent))
    assert min(seconds) < 0.2, f"import gpg_vl takes {min(seconds):.2f} s, allowed are 0.2 s"
