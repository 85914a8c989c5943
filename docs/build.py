"""What the guide takes from the code when it is built: options, flags, methods, results; and formulas as MathML."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import latex2mathml.converter
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from compressor.cli.app import app
from compressor.cli.options import FLAG_OF_FIELD
from compressor.presets import PRESETS
from compressor.recipe import Recipe, Section
from compressor.utils.registry import Registry

ROOT = Path(__file__).parents[1]
#: Links of pages that lie elsewhere in the repository than in the guide, where benchmarks/ is a folder of docs/.
_LINKS = {
    "(../benchmarks/": "(benchmarks/",
    "(../docs/families.md)": "(../families.md)",
}
#: What the flags are listed under that have no panel of their own.
_PANELS = {"argument": "Arguments", "option": "Options"}
_FLAG = re.compile(r"(?<!`)(--[a-z][a-z-]+)(?!`)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code, and those of the benchmarks."""
    for path, text in {"options.md": options(), "methods.md": methods()}.items():
        files.append(File.generated(config, path, content=text))
    results = [path for kind in ("*.md", "*.svg") for path in sorted((ROOT / "benchmarks").rglob(kind))]
    for path in results:
        if "said" in (path.parent.name, path.stem):  # parts of pages
            continue
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put recipes and flags in where a page names them, and let links lead to where their pages are in the guide."""
    for before, after in _LINKS.items():
        markdown = markdown.replace(before, after)
    markdown = re.sub(r"^::options (\S+)$", lambda found: flags(found[1]), markdown, flags=re.MULTILINE)
    return re.sub(
        r"^::recipe (\S+)$", lambda found: _fence("yaml", _read(f"recipes/{found[1]}")), markdown, flags=re.MULTILINE
    )


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers draw by themselves."""
    content = re.sub(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>', lambda f: _formula(f[1], "block"), content, flags=re.S
    )
    return re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda f: _formula(f[1], "inline"), content, flags=re.S
    )


def options() -> str:
    """Every option of the schema, section by section."""
    parts = [
        "# Options\n\nMade from the schema when this page was built. A recipe is a YAML file with these keys; a flag "
        "is the same field. Unknown keys are refused, and every output folder holds the resolved recipe.\n"
    ]
    parts += [_section(path, section) for path, section in _sections("", Recipe)]
    return "\n".join(parts)


def flags(name: str) -> str:
    """The arguments and flags of a command, a table for each panel of its help.

    Raises:
        KeyError: there is no such command.
    """
    group: Any = typer.main.get_command(app)
    panels: dict[str, list[str]] = {}
    for parameter in group.commands[name].params:
        panel = getattr(parameter, "rich_help_panel", None) or _PANELS[parameter.param_type_name]
        row = f"| {', '.join(f'`{word}`' for word in _names(parameter))} | {_plain(parameter.help)} |"
        panels.setdefault(panel, []).append(row)
    ordered = sorted(panels, key=lambda panel: panel != "Arguments")
    return "\n\n".join("\n".join([f"| {panel} | |", "| :-- | :-- |", *panels[panel]]) for panel in ordered)


def methods() -> str:
    """Everything that is registered under a name."""
    from compressor.fusion.anchored.policies import POLICIES
    from compressor.fusion.calibration.token_filters import TOKEN_FILTERS
    from compressor.fusion.maps.residual import RESIDUAL_MAPS
    from compressor.fusion.maps.units import UNIT_MAPS
    from compressor.transport import COST_SCALES, COSTS, PREPARATIONS, SOLVERS

    tables: list[tuple[str, str, Registry[Any]]] = [
        ("Residual maps", "--residual", RESIDUAL_MAPS),
        ("Residual policies", "--residual", POLICIES),
        ("Maps of heads and hidden units", "--inner", UNIT_MAPS),
        ("Transport solvers", "--solver", SOLVERS),
        ("Ground costs", "--cost", COSTS),
        ("Preparations of features", "--preparation", PREPARATIONS),
        ("Scales of costs", "--normalise", COST_SCALES),
        ("Token filters", "--tokens", TOKEN_FILTERS),
        ("Presets", "--preset", PRESETS),
    ]
    parts = [
        "# Methods\n\nMade from the registries when this page was built. [Add your own](extend.md) says how to add "
        "one.\n"
    ]
    for title, flag, registry in tables:
        rows = [f"| `{name}` | {_meaning(registry.get(name))} |" for name in registry.names()]
        parts.append(f"## {title}\n\n`{flag}`\n\n" + "\n".join(["| name | |", "| :-- | :-- |", *rows]) + "\n")
    return "\n".join(parts)


def _sections(path: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    yield path, section
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            yield from _sections(f"{path}{name}.", field.annotation)  # type: ignore[arg-type]


def _section(path: str, section: type[Section]) -> str:
    fields = {name: field for name, field in section.model_fields.items() if not _is_section(field.annotation)}
    rows = [
        f"| `{name}`{_flag(path + name)} | {_cell(_type(field.annotation))} | {_default(field)} "
        f"| {_plain(field.description)} |"
        for name, field in fields.items()
    ]
    title = f"`{path.rstrip('.')}`" if path else "The whole"
    head = ["| key, flag | type | default | meaning |", "| :-- | :-- | :-- | :-- |"]
    return f"## {title}\n\n{inspect.cleandoc(section.__doc__ or '')}\n\n" + "\n".join([*head, *rows]) + "\n"


def _names(parameter: Any) -> list[str]:
    """What a parameter of a command is called: its flags, or what stands for an argument."""
    if parameter.param_type_name == "argument":
        return [parameter.metavar or parameter.name.upper()]
    return [*parameter.opts, *parameter.secondary_opts]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _flag(path: str) -> str:
    return f"<br>`{FLAG_OF_FIELD[path]}`" if path in FLAG_OF_FIELD else ""


def _type(annotation: Any) -> str:
    """A type in a few words, without what limits it: that is in the meaning, or in what is said to a wrong value."""
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if isinstance(annotation, type) and not get_args(annotation):
        return {
            "NoneType": "none",
            "str": "text",
            "int": "whole number",
            "float": "number",
            "bool": "true or false",
        }.get(annotation.__name__, annotation.__name__)
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    if get_origin(annotation) is tuple:
        return f"list of {_type(parts[0])}"
    if get_origin(annotation) is dict:
        return "mapping"
    if hasattr(annotation, "__metadata__"):
        return _type(parts[0])
    return " or ".join(dict.fromkeys(_type(part) for part in parts))


def _default(field: Any) -> str:
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    return f"`{', '.join(map(str, default)) if isinstance(default, tuple) else default}`"


def _meaning(entry: Any) -> str:
    """The first line of what was registered, or what it says of itself."""
    if hasattr(entry, "meaning"):
        return str(entry.meaning)
    # A policy is known by the shares that it takes.
    said = inspect.getdoc(getattr(entry, "shares", entry)) or ""
    more = "" if not hasattr(entry, "start") or entry.start == "entry" else f" The first map: {entry.start}."
    return _plain(said.split("\n\n")[0]) + more


def _plain(text: str | None) -> str:
    """A help text without its markup, in one line of a table."""
    return _cell(" ".join(re.sub(r"\[/?dim\]", "", text or "").replace("\\[", "[").split()))


def _cell(text: str) -> str:
    return _FLAG.sub(r"`\1`", text.replace("|", "\\|").replace("<", "&lt;")).replace("*", "\\*")


def _formula(text: str, display: str) -> str:
    drawn = latex2mathml.converter.convert(html.unescape(text), display=display)
    return f'<div class="formula">{drawn}</div>' if display == "block" else drawn


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
