"""Hooks of MkDocs: pages that are made from the code, and links to files outside of docs/.

A page for each public name, and one for each example with its code, its output and its pictures.
`run_examples.py` records the last two. In the Markdown files, links lead to the files of the
repository, so that they work without the site too.
"""

import ast
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from run_examples import OUTPUTS, RESULTS, scripts  # MkDocs finds the modules beside its hooks

ROOT = Path(__file__).parents[1]
GROUPS = {
    "layers": "Blocks, experts and gates",
    "heads": "Heads",
    "losses": "Losses",
    "labels": "Labels",
    "metrics": "Metrics",
    "callbacks": "Callbacks",
    "inspection": "Inspection",
    "plots": "Plots",
    "transfer": "Transfer",
    "export": "Export",
}
# Classes whose objects a result holds. They are not public names, and have no pages.
PARTS = {
    "GateReport": [
        "ple_keras.inspection.level_use.LevelUse",
        "ple_keras.inspection.level_use.GateUse",
        "ple_keras.inspection.level_use.ExpertUse",
        "ple_keras.inspection.prediction_use.PredictionUse",
    ]
}
LINKS = {
    "README.md": "getting_started.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def public_names() -> dict[str, list[str]]:
    """Return the public names of each subpackage, as `ple_keras/__init__.py` imports them."""
    tree = ast.parse((ROOT / "ple_keras" / "__init__.py").read_text())
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names[node.module.split(".")[1]] += [alias.name for alias in node.names]
    return names


def on_config(config: Any) -> Any:
    """Add the made pages to the navigation."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = ["reference/index.md"] + [
                {GROUPS[group]: [{name: f"reference/{name}.md"} for name in sorted(names)]}
                for group, names in public_names().items()
            ]
        if "Examples" in section:
            section["Examples"] = [
                {path.stem: f"examples/{path.with_suffix('.md')}"} for path in scripts()
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
    for path in scripts():
        add(f"examples/{path.with_suffix('.md')}", example_page(path))
    for source, uri in LINKS.items():
        if source != "README.md":
            add(uri, (ROOT / source).read_text())
    return files


def reference_index() -> str:
    """Return a page with links to all public names, by group."""
    lines = ["# Reference", "", "All names are attributes of `ple_keras`.", ""]
    for group, names in public_names().items():
        links = [f"[`{name}`]({name}.md)" for name in sorted(names)]
        lines += [f"**{GROUPS[group]}**: {', '.join(links)}", ""]
    return "\n".join(lines)


def reference_page(name: str) -> str:
    """Return a page with the docstring of a public name, and those of the parts of a result."""
    parts = [f"::: {path}\n    options:\n      heading_level: 2" for path in PARTS.get(name, [])]
    return "\n\n".join([f"::: ple_keras.{name}", *parts]) + "\n"


def example_page(path: Path) -> str:
    """Return a page with the docstring of a script, its output, its pictures and its code."""
    code = (ROOT / "examples" / path).read_text()
    docstring = ast.get_docstring(ast.parse(code)) or ""
    summary, _, description = docstring.partition("\n")
    parts = [f"# {path.name}", summary, description]
    parts += [output_of(path), "## Code", f"```python\n{code.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def output_of(path: Path) -> str:
    """Return the recorded output of a script with its pictures, or a link to its results."""
    if str(path) in RESULTS:
        results = RESULTS[str(path)]
        title = (ROOT / "docs" / results).read_text().partition("\n")[0].removeprefix("# ")
        link = f"[{title}]({'../' * len(path.parts)}{results})"
        return f"## Results\n\nThe results are on the page {link}."
    output = OUTPUTS / path.with_suffix(".txt")
    if not output.exists():
        return ""
    command, versions, _, printed = output.read_text().split("\n", 3)
    parts = ["## Output", f"```bash\n{command.removeprefix('$ ')}\n```", f"{versions}:"]
    parts += [f"```text\n{printed.rstrip()}\n```"]
    pictures = sorted(output.parent.glob(f"{path.stem}-*.png"))
    for number, picture in enumerate(pictures):
        name = picture.name.removeprefix(f"{path.stem}-")
        parts += ["## Pictures"] * (number == 0) + [
            f"`{name}`:",
            f"[![{name}]({picture.name})]({picture.name})",
        ]
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Convert equations to MathML, which needs no script, and links to those of pages."""
    equations = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
    markdown = equations.sub(
        lambda match: f'<div class="equation">{convert(match[1], display="block")}</div>',
        markdown,
    )
    return link_pages(markdown, page)


def link_pages(markdown: str, page: Page) -> str:
    """Lead links to files of the repository to their pages."""
    depth = page.file.src_uri.count("/")
    to_docs = "../" * depth

    def lead(match: re.Match[str]) -> str:
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
    return re.sub(rf"\]\({re.escape(prefix)}{paths}(#[^)]*)?\)", lead, markdown)
