"""The pages of the site that are made from the code: the reference and the examples."""

import ast
from pathlib import Path

from run_examples import OUTPUTS, RESULTS, ROOT, scripts

GROUPS = {
    "layers": "Blocks, experts and gates",
    "models": "Models",
    "heads": "Heads",
    "losses": "Losses",
    "labels": "Labels",
    "metrics": "Metrics",
    "callbacks": "Callbacks",
    "optimizers": "Optimizers",
    "inspection": "Inspection",
    "plots": "Plots",
    "transfer": "Transfer",
    "export": "Export",
}
# Classes whose objects a result holds. They are not public names, and have no pages.
PARTS = {
    "GateReport": [
        "ple_keras.inspection.gates.LevelUse",
        "ple_keras.inspection.gates.GateUse",
        "ple_keras.inspection.gates.ExpertUse",
    ],
    "TaskReport": [
        "ple_keras.inspection.task_figures.TaskFigures",
        "ple_keras.inspection.task_report.TaskTraining",
        "ple_keras.inspection.task_report.BranchUse",
        "ple_keras.inspection.gradient_conflict.Conflict",
    ],
}
# Pictures that functions draw, by path below docs/.
PICTURES = {
    "plot_architecture": "architecture.png",
    "plot_gate_history": "examples/gates-as_it_is.png",
    "plot_gate_weights": "examples/gates-weights.png",
}
# Titles of folders of examples/.
FOLDERS = {
    ".": "One device",
    "distributed": "Several devices",
    "serving": "Serving",
    "benchmarks": "Benchmarks",
}


def public_names() -> dict[str, list[str]]:
    """Return the public names of each subpackage, as `ple_keras/__init__.py` imports them."""
    tree = ast.parse((ROOT / "ple_keras" / "__init__.py").read_text())
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "ple_keras":
            names[node.module.split(".")[1]] += [alias.name for alias in node.names]
    return names


def reference_index() -> str:
    """Return a page with links to all public names, by group."""
    lines = ["# Reference", "", "All names are attributes of `ple_keras`.", ""]
    for group, names in public_names().items():
        links = [f"[`{name}`]({name}.md)" for name in sorted(names)]
        lines += [f"**{GROUPS[group]}**: {', '.join(links)}", ""]
    return "\n".join(lines)


def reference_page(name: str) -> str:
    """Return a page with the docstring of a public name, and those of the parts of a result."""
    parts = [f"::: ple_keras.{name}"]
    parts += [f"::: {path}\n    options:\n      heading_level: 2" for path in PARTS.get(name, [])]
    if name in PICTURES:
        parts += ["**Picture:**", f"![A picture of {name}](../{PICTURES[name]})"]
    return "\n\n".join(parts) + "\n"


def docstring_of(script: Path) -> str:
    """Return the docstring of a script."""
    return ast.get_docstring(ast.parse((ROOT / "examples" / script).read_text())) or ""


def scripts_by_folder() -> dict[str, list[Path]]:
    """Return the scripts of each folder by its title."""
    return {
        title: [path for path in scripts() if str(path.parent) == folder]
        for folder, title in FOLDERS.items()
    }


def examples_index() -> str:
    """Return a page with a line for each script."""
    lines = [
        "# Examples",
        "",
        "Each script is one file to copy, with columns.py where it imports it, but for serving.",
        "",
    ]
    for title, paths in scripts_by_folder().items():
        lines += [f"## {title}", ""]
        for path in paths:
            summary = docstring_of(path).partition("\n")[0]
            lines += [f"- [{path.name}]({path.with_suffix('.md')}): {summary}"]
        lines += [""]
    return "\n".join(lines)


def example_page(path: Path) -> str:
    """Return a page with the docstring of a script, its output, its pictures and its code."""
    code = (ROOT / "examples" / path).read_text()
    summary, _, description = docstring_of(path).partition("\n")
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
    parts += ["## Pictures"] if pictures else []
    for picture in pictures:
        name = picture.name.removeprefix(f"{path.stem}-")
        parts += [f"`{name}`:", f"[![{name}]({picture.name})]({picture.name})"]
    return "\n\n".join(parts)
