"""What the built book adds to its theme: formulas without a script, links, launch buttons that are true.

A Sphinx extension, named in ``_config.yml``.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx what this extension does."""
    app.add_config_value("runs_on_binder", [], "html")
    app.add_config_value("has_address", False, "html")
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("source-read", _chapters_as_pages)
    app.connect("config-inited", _no_links_without_an_address, priority=900)
    app.connect("html-page-context", _launch_where_it_runs, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _chapters_as_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Take links between chapters, which lead JupyterLab and GitHub to notebooks, to their pages."""
    source[0] = re.sub(r"\]\((\w+)\.ipynb\b", r"](\1.md", source[0])


def _formula(writer: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw offline and screen readers read."""
    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    writer.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def _no_links_without_an_address(app: Sphinx, config: Config) -> None:
    """Leave out every button that would lead to a repository that is nowhere."""
    options = config.html_theme_options
    config.has_address = bool(options.get("repository_url"))
    if not config.has_address:
        # The theme offers the notebook as a file only where it can work out links, which go below.
        options["repository_url"] = "https://github.com/none/none"
    options |= dict.fromkeys(("use_repository_button", "use_issues_button"), config.has_address)


def _launch_where_it_runs(app: Sphinx, page: str, template: str, context: Any, tree: Any) -> None:
    """Offer Binder, which has no torch, on the pages that run there."""
    # Jupyter Book names the scripts of Thebe, which no page uses, twice: an error in every console.
    files = context.get("script_files", [])
    context["script_files"] = [f for f in files if "thebe" not in str(f).lower()]
    groups = context.get("header_buttons", [])
    for group in [group for group in groups if group.get("label") == "launch-buttons"]:
        if not app.config.has_address:
            groups.remove(group)
        elif page not in app.config.runs_on_binder:
            group["buttons"] = [one for one in group["buttons"] if one["text"] != "Binder"]
