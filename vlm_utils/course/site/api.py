"""The reference of `vlm_utils`: a page for each room, from the source, without importing it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm_utils.course.site.markdown import escape

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_FENCE = "`" * 6     # longer than any in a docstring


@dataclass(frozen=True)
class Room:
    """A module that others import from: its dotted name, its docstring, its public definitions."""

    name: str
    text: str
    definitions: tuple[Definition, ...]


def read_rooms(package: Path) -> list[Room]:
    """Every room of a package that defines something public, in the order of their names.

    A folder is one room with what its __init__ re-exports; if that names nothing, each of its
    modules is a room. Names that start with _ are left out.
    """
    found = []
    for path in sorted(package.iterdir()):
        if path.suffix == ".py" and not path.name.startswith("_"):
            found.append(_room(path, f"{package.name}.{path.stem}"))
        elif (path / "__init__.py").is_file():
            found += _rooms_of_folder(path, f"{package.name}.{path.name}")
    return [room for room in found if room.definitions]


def room_page(room: Room) -> str:
    """A room as a page of Markdown for Sphinx."""
    parts = [f"# `{room.name}`", as_markdown(room.text), f"```{{py:module}} {room.name}\n```"]
    parts += [_directive(node, room.name) for node in room.definitions]
    return "\n\n".join(parts) + "\n"


def as_markdown(text: str, names: tuple[str, ...] = ()) -> str:
    """A docstring of this package, which is plain text, as Markdown.

    names: of parameters; a line that starts with some of them and a colon becomes a list's entry.
    """
    parts = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines):
            parts.append("```text\n" + inspect.cleandoc("\n" + block) + "\n```")
        else:
            parts.append("\n".join(_entry(line, names) for line in lines))
    return "\n\n".join(parts)


def _entry(line: str, names: tuple[str, ...]) -> str:
    match = re.match(r"([\w, ]+): ", line)
    listed = match and all(name in names for name in re.split(r", | and ", match[1]))
    if listed:
        return f"- **{escape(match[1])}:** {escape(line[match.end():])}"
    # A number or a dash that starts a line of plain text would start a list.
    line = re.sub(r"^(\d+)\.", r"\1\\.", escape(line.strip()))
    return re.sub(r"^([-+])", r"\\\1", line)


def _rooms_of_folder(folder: Path, name: str) -> Iterator[Room]:
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    # What a room takes from another one and passes on is on the other one's page.
    origins = {alias.asname or alias.name: node.module for node in tree.body
               if isinstance(node, ast.ImportFrom) and node.module.startswith(f"{name}.")
               for alias in node.names}
    if not origins:
        for path in sorted(folder.glob("[!_]*.py")):
            yield _room(path, f"{name}.{path.stem}")
        return
    found = []
    for public, module in sorted(origins.items(), key=lambda pair: pair[0].lower()):
        path = folder.parent.parent.joinpath(*module.split(".")).with_suffix(".py")
        if path.is_file():
            found += [node for node in _public(_parse(path)) if node.name == public]
    yield Room(name, ast.get_docstring(tree) or "", tuple(found))


def _room(path: Path, name: str) -> Room:
    tree = _parse(path)
    return Room(name, ast.get_docstring(tree) or "", tuple(_public(tree)))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _public(tree: ast.AST) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_") \
                and not any(ast.unparse(each).endswith(".setter") for each in node.decorator_list):
            yield node


def _made_from(node: ast.ClassDef) -> list[str]:
    """What a class is called with: the arguments of its __init__, or a dataclass's fields."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            each.args.args = each.args.args[1:]
            return [ast.unparse(each.args)] if ast.unparse(each.args) else []
    if any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        return [ast.unparse(each) for each in node.body if isinstance(each, ast.AnnAssign)
                and not ast.unparse(each.target).startswith("_")
                and "init=False" not in ast.unparse(each)]
    return []


def _directive(node: Definition, room: str, depth: int = 0) -> str:
    """A definition with its docstring; of a class, its public methods too."""
    fence = "`" * (len(_FENCE) - depth)
    if isinstance(node, ast.ClassDef):
        made_from = _made_from(node)
        names = tuple(re.findall(r"\w+", ", ".join(made_from)))
        head = f"{{py:class}} {node.name}({', '.join(made_from)})"
    else:
        wanted = [a for a in ast.walk(node.args) if isinstance(a, ast.arg)]
        names = tuple(a.arg for a in wanted)
        kind, arguments = ("method" if depth else "function"), node.args
        decorators = {ast.unparse(each) for each in node.decorator_list}
        if depth and "staticmethod" not in decorators:
            arguments.args = arguments.args[1:]         # self, or cls
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        head = f"{{py:{kind}}} {node.name}({ast.unparse(arguments)}){returns}"
        if depth and "property" in decorators:
            head = f"{{py:property}} {node.name}"
    options = "" if depth else f"\n:module: {room}"
    parts = [f"{fence}{head}{options}", as_markdown(ast.get_docstring(node) or "", names)]
    if isinstance(node, ast.ClassDef):
        parts += [_directive(each, room, depth + 1) for each in _public(node)
                  if not isinstance(each, ast.ClassDef) and ast.get_docstring(each)]
    return "\n\n".join([*parts, fence])
