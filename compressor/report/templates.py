"""Jinja2 templates of pages and drawings; they are packaged with the modules that fill them."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_template(package: str, name: str, **values: Any) -> str:
    """A package's template as text: values are escaped, and unknown names are errors."""
    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["g"] = lambda value: f"{float(value):g}"
    return environment.get_template(name).render(values).strip() + "\n"
