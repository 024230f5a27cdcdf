"""Hooks of MkDocs: made pages, equations, and links to files outside of docs/.

In the Markdown files, links lead to the files of the repository, so that they work without the site
too.
"""

import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from site_pages import (  # MkDocs finds the modules next to its hooks
    GROUPS,
    ROOT,
    example_page,
    examples_index,
    public_names,
    reference_index,
    reference_page,
    scripts,
    scripts_by_folder,
)

LINKS = {
    "README.md": "getting_started.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_config(config: Any) -> Any:
    """Add the made pages to the navigation."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = ["reference/index.md"] + [
                {GROUPS[group]: [{name: f"reference/{name}.md"} for name in sorted(names)]}
                for group, names in public_names().items()
            ]
        if "Examples" in section:
            section["Examples"] = ["examples/index.md"] + [
                {title: [{path.stem: f"examples/{path.with_suffix('.md')}"} for path in paths]}
                for title, paths in scripts_by_folder().items()
            ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the made pages."""

    def add(uri: str, content: str) -> None:
        files.append(File.generated(config, uri, content=content))

    add("reference/index.md", reference_index())
    for names in public_names().values():
        for name in names:
            add(f"reference/{name}.md", reference_page(name))
    add("examples/index.md", examples_index())
    for path in scripts():
        add(f"examples/{path.with_suffix('.md')}", example_page(path))
    for source, uri in LINKS.items():
        if source != "README.md":
            add(uri, (ROOT / source).read_text())
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Convert equations to MathML, which needs no script, and links to those of pages."""
    equations = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
    markdown = equations.sub(
        lambda match: f'<div class="equation">{convert(match[1], display="block")}</div>',
        markdown,
    )
    return link_pages(markdown, page)


def link_pages(markdown: str, page: Page) -> str:
    """Replace links to files of the repository by links to their pages."""
    depth = page.file.src_uri.count("/")
    to_docs = "../" * depth

    def page_link(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        if path.startswith("examples/") and path.endswith(".py"):
            return f"]({to_docs}{path[:-3]}.md{anchor})"
        if path == "examples/benchmarks/README.md":
            return f"]({to_docs}performance.md)"
        if path.startswith("docs/"):
            return f"]({to_docs}{path[5:]}{anchor})"
        return f"]({to_docs}{LINKS.get(path, path)}{anchor})"

    # Pages of docs/ write ../examples/, the files of the root examples/ and docs/.
    is_of_root = page.file.src_uri in ("contributing.md", "changelog.md")
    prefix = "" if is_of_root else "../" * (depth + 1)
    paths = r"((?:examples|docs)/[^)#]*|README\.md|CONTRIBUTING\.md|CHANGELOG\.md)"
    return re.sub(rf"\]\({re.escape(prefix)}{paths}(#[^)]*)?\)", page_link, markdown)
