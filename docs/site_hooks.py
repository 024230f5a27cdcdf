"""Hooks of MkDocs: generated pages, equations, and links to files outside the site.

In the Markdown files, links lead to the files of the repository, so that they work without the site
too.
"""

import re
from typing import Any

from equations import math_fence  # MkDocs finds the modules next to its hooks
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from site_pages import (
    ROOT,
    example_page,
    examples_index,
    home_page,
    navigation,
    public_names,
    reference_index,
    reference_page,
    scripts,
)

PAGES = {  # pages of files outside docs/
    "README.md": "README.md",
    "CHANGELOG.md": "changelog.md",
    "examples/benchmarks/README.md": "performance.md",
}
FOR_MAINTAINERS = ("CONTRIBUTING.md", "docs/maintainers/")  # no page of the site
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """Make the navigation from the list of pages, and convert blocks of equations."""
    fence = {"name": "math", "class": "equation", "format": math_fence}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    config.nav = navigation()
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""

    def add(uri: str, content: str) -> None:
        files.append(File.generated(config, uri, content=content))

    add("reference/index.md", reference_index())
    for names in public_names().values():
        for name in names:
            add(f"reference/{name}.md", reference_page(name))
    add("examples/index.md", examples_index())
    for path in scripts():
        add(f"examples/{path.with_suffix('.md')}", example_page(path))
    add("changelog.md", (ROOT / "CHANGELOG.md").read_text())
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, **_: Any) -> str:
    """Convert links for the site. The home page begins as the README, and has no sidebars."""
    if page.file.src_uri == "README.md":
        markdown = home_page(markdown)
        page.meta["hide"] = ["navigation", "toc"]
    return link_pages(markdown, page, config.repo_url)


def link_pages(markdown: str, page: Page, repository: str | None) -> str:
    """Replace links to files of the repository with links to their pages.

    A link to a file without a page leads to the repository, or becomes its path if the repository
    has no address.
    """
    is_changelog = page.file.src_uri == "changelog.md"
    to_docs = "../" * page.file.src_uri.count("/")

    def page_link(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        path = link if is_changelog else path_in_repository(page.file.src_uri, link)
        if path.startswith(FOR_MAINTAINERS):
            address = f"{repository}/blob/main/{path}"
            return f"[{text}]({address})" if repository else f"{text} (`{path}`)"
        if path.startswith("examples/") and path.endswith(".py"):
            return f"[{text}]({to_docs}{path[:-3]}.md{anchor})"
        if path in PAGES or is_changelog:
            uri = PAGES.get(path, path.removeprefix("docs/"))
            return f"[{text}]({to_docs}{uri}{anchor})"
        return match[0]

    return LINK.sub(page_link, markdown)


def path_in_repository(page: str, link: str) -> str:
    """Return the path of a linked file from the root of the repository."""
    folders = ["docs", *page.split("/")[:-1]]
    for part in link.split("/"):
        folders = folders[:-1] if part == ".." else [*folders, part]
    return "/".join(folders)
