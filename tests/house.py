"""The house of docs/architecture.md as rules: who may import whom, and what may stand where.

A rule is a function from a house (all files of the package) to complaints. test_architecture.py applies them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Top floor first. Imports go down only; rooms on one floor do not know each other. A room is a module, a package, or
# a set of them joined by a space.
FLOORS = (
    ("__init__", "cli"),
    ("demo", "terminal"),
    ("compare",),
    ("analyses",),
    ("report", "runs"),
    ("evaluate",),
    ("predict", "train"),
    ("contributions", "masks"),
    ("explain", "artifact"),
    ("nets",),
    ("moe", "tasks", "data"),
    ("config", "device"),
    ("settings presets",),
    ("batch study schema errors strict_yaml",),
)
LONGEST_FUNCTION = 60
NAMELESS = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
UNSAFE_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
TORCHLESS = ("study", "strict_yaml", "schema", "errors", "settings", "presets", "config", "terminal")
# Imports that cost a second or more, and the rooms that may have them at the top of a file.
SLOW_IMPORTS = {"monai": (), "transformers": (), "matplotlib": (), "sklearn": (), "lightning": ("train",)}


@dataclass(frozen=True)
class Import:
    """One import in `source`: the dotted name it loads, its line, and whether importing the file runs it."""

    name: str
    line: int
    at_top: bool

    @property
    def root(self) -> str:
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Source:
    """One file of the package, `path` relative to it."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def module(self) -> str:
        parts = self.path.with_suffix("").parts
        return ".".join(("m4oe", *(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)))

    @property
    def room(self) -> str:
        return self.path.parts[0].removesuffix(".py")

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(_imports(self.tree, at_top=True))

    def says(self, node: ast.AST | Import, what: str) -> str:
        return f"{self.path}:{node.line if isinstance(node, Import) else node.lineno}: {what}"


@dataclass(frozen=True)
class House:
    """All files of the package."""

    sources: tuple[Source, ...]

    @cached_property
    def modules(self) -> set[str]:
        return {source.module for source in self.sources}

    def targets(self, source: Source) -> Iterator[tuple[Import, str]]:
        """Imports of our own modules: `from m4oe.data import table` is of m4oe.data.table, where that is a module."""
        for found in source.imports:
            if found.root == "m4oe" and found.name != "m4oe.__version__":
                name = found.name
                while name not in self.modules and "." in name:
                    name = name.rpartition(".")[0]
                yield found, "m4oe.__init__" if name == "m4oe" else name


def read_house(folder: Path) -> House:
    files = sorted(folder.rglob("*.py"))
    return House(tuple(Source(path.relative_to(folder), path.read_text(encoding="utf-8")) for path in files))


def _imports(node: ast.AST, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            yield from (Import(f"{module}.{alias.name}", child.lineno, at_top) for alias in child.names)
        else:
            runs = not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _imports(child, at_top and runs and not typing_only)


def _calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def _floor_and_room(room: str) -> tuple[int, str] | None:
    return next(((i, name) for i, floor in enumerate(FLOORS) for name in floor if room in name.split()), None)


def imports_go_down(house: House) -> Iterator[str]:
    for source in house.sources:
        here = _floor_and_room(source.room)
        if here is None:
            yield f"{source.path}: {source.room!r} is on no floor; give it one in FLOORS and in docs/architecture.md"
            continue
        for found, target in house.targets(source):
            there = _floor_and_room(target.split(".")[1])
            if there is None or (there[0] <= here[0] and there != here):
                yield source.says(found, f"{source.room} may not know {found.name}")


def no_relative_imports(house: House) -> Iterator[str]:
    for source in house.sources:
        yield from (source.says(found, "relative import") for found in source.imports if found.name.startswith("."))


def no_cycles(house: House) -> Iterator[str]:
    knows = {source.module: {target for _, target in house.targets(source)} for source in house.sources}
    while free := [module for module, known in knows.items() if not known & (knows.keys() - {module})]:
        for module in free:
            del knows[module]
    if knows:
        yield f"a cycle among {', '.join(sorted(knows))}"


def only_the_command_line_prints(house: House) -> Iterator[str]:
    for source in house.sources:
        if source.room not in ("cli", "terminal"):
            yield from (source.says(call, "print") for call, name in _calls(source) if name == "print")
            yield from (source.says(found, "rich") for found in source.imports if found.root in ("rich", "typer"))


def devices_have_a_home(house: House) -> Iterator[str]:
    for source in house.sources:
        if source.room in ("device", "train", "cli"):
            continue
        prose = {id(node.value) for node in ast.walk(source.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(source.tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if id(node) not in prose and re.match(r"(cuda|mps)(:\d*)?$", text):
                yield source.says(node, f"the device {text!r}")
            if isinstance(node, ast.Attribute) and node.attr in ("cuda", "mps"):
                yield source.says(node, f"the device in {ast.unparse(node)}")


def no_torchvision(house: House) -> Iterator[str]:
    for source in house.sources:
        yield from (source.says(found, found.name) for found in source.imports if found.root == "torchvision")


def nothing_unpickles(house: House) -> Iterator[str]:
    for source in house.sources:
        yield from (source.says(found, found.name) for found in source.imports if found.root in UNSAFE_MODULES)
        for call, name in _calls(source):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name == "torch.load" and given.get("weights_only") != "True":
                yield source.says(call, "torch.load without weights_only=True")
            if given.get("allow_pickle", "False") != "False" or name == "yaml.load":
                yield source.says(call, f"{name} may run what a file says")


def nothing_evaluates_text(house: House) -> Iterator[str]:
    for source in house.sources:
        yield from (source.says(call, name) for call, name in _calls(source) if name in ("eval", "exec", "__import__"))


def facts_know_no_torch(house: House) -> Iterator[str]:
    """Through others, too: what these files import when they are imported, as far as that is ours."""
    by_module = {source.module: source for source in house.sources}
    for room in TORCHLESS:
        seen, todo = set(), [f"m4oe.{room}"]
        while todo:
            source = by_module.get(module := todo.pop())
            if source is None or module in seen:
                continue
            seen.add(module)
            yield from (source.says(found, f"torch in {room}") for found in source.imports if found.root == "torch")
            todo += [target for found, target in house.targets(source) if found.at_top]


def lightning_lives_in_train(house: House) -> Iterator[str]:
    for source in house.sources:
        strays = [found for found in source.imports if found.root in ("lightning", "pytorch_lightning")]
        yield from (source.says(found, found.name) for found in strays if source.room != "train")


def names_mean_something(house: House) -> Iterator[str]:
    for source in house.sources:
        if nameless := NAMELESS & {part.strip("_") for part in source.path.with_suffix("").parts}:
            yield f"{source.path}: {nameless.pop()!r} says nothing"


def slow_libraries_wait(house: House) -> Iterator[str]:
    for source in house.sources:
        for found in source.imports:
            if found.at_top and source.room not in SLOW_IMPORTS.get(found.root, (source.room,)):
                yield source.says(found, f"{found.name} at the top: import it in the function that needs it")


def one_file_sees_config_and_modules(house: House) -> Iterator[str]:
    for source in house.sources:
        targets = {target for _, target in house.targets(source)}
        modules = {target for target in targets if target.startswith("m4oe.nets.") and target != "m4oe.nets.build"}
        sees_modules = modules or source.room == "nets"
        if targets & {"m4oe.config", "m4oe.settings"} and sees_modules and source.module != "m4oe.nets.build":
            yield f"{source.path}: knows the config and {', '.join(modules) or 'is a module'}"


def the_mixture_stands_alone(house: House) -> Iterator[str]:
    known = {"torch", *sys.stdlib_module_names}
    for source in house.sources:
        for found, name in ((found, found.name) for found in source.imports if source.room == "moe"):
            if found.root not in known and not name.startswith(("m4oe.batch", "m4oe.moe")):
                yield source.says(found, f"moe/ knows torch and batch.py, not {name}")


def functions_are_short(house: House) -> Iterator[str]:
    for source in house.sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    yield source.says(node, f"{node.name} has {lines} lines")
