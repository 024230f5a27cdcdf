"""The list of pages, and the pages of the site that are generated: home, reference and examples."""

import ast
import re
from pathlib import Path
from typing import Any

from run_examples import OUTPUTS, RESULTS, ROOT, scripts

# All pages below docs/ that are not for maintainers, by topic. The navigation is made from this
# list, and tests compare docs/README.md with it.
PAGES = {
    "Start": {
        "Getting started": "getting_started.md",
        "Choosing a block": "choosing.md",
        "Tuning": "tuning.md",
        "Questions and answers": "faq.md",
    },
    "Models": {
        "Blocks": "blocks.md",
        "Columns": "columns.md",
        "Hedged branches": "hedged_branches.md",
        "In your own Keras model": "in_your_own_model.md",
    },
    "Training": {
        "Heads and training": "heads_and_training.md",
        "Missing and rare labels": "missing_labels.md",
        "A matrix of labels": "many_targets.md",
        "Custom training loops": "training_loops.md",
        "Scale": "scale.md",
    },
    "Trained models": {
        "Inspecting and monitoring": "inspection.md",
        "Life of a model": "life_of_a_model.md",
        "Exporting and serving": "serving.md",
    },
    "Recipes": {
        "Gradient boosting": "recipes/boosting.md",
        "Counts, amounts and exposure": "recipes/exposure.md",
        "Rankings and scores": "recipes/ranking.md",
    },
    "Results": {
        "Never worse": "results/never_worse.md",
        "Against gradient boosting": "results/against_boosting.md",
        "Ensembles of equal size": "results/ensembles.md",
        "Training every day": "results/every_day.md",
        "Performance": "performance.md",
    },
    "Migration": {
        "From other libraries": "migrating.md",
    },
}
TABS = (
    "Start",
    "Recipes",
    "Results",
)  # tabs of the site; the other topics are in a tab "Guide"
GROUPS = {
    "layers": "Blocks, experts and gates",
    "models": "Models",
    "heads": "Heads",
    "losses": "Losses",
    "labels": "Labels",
    "columns": "Columns",
    "hedging": "Hedged branches",
    "metrics": "Metrics",
    "callbacks": "Callbacks",
    "optimizers": "Optimizers",
    "inspection": "Inspection",
    "plots": "Plots",
    "transfer": "Transfer",
    "export": "Export",
    "tabular": "From a frame to a model",
}
# Classes of results, and of objects that a result holds. They are not public names, and have no
# pages.
PARTS = {
    "compare_predictions": [
        "ple_keras.inspection.compare_predictions.Comparison",
        "ple_keras.inspection.compare_predictions.Gain",
    ],
    "gate_report": [
        "ple_keras.inspection.gates.GateReport",
        "ple_keras.inspection.gates.LevelUse",
        "ple_keras.inspection.gates.GateUse",
    ],
    "mix_predictions": ["ple_keras.inspection.mix_predictions.Mixture"],
    "task_report": [
        "ple_keras.inspection.task_report.TaskReport",
        "ple_keras.inspection.task_figures.TaskFigures",
        "ple_keras.inspection.task_report.BranchUse",
    ],
    "TabularModel": [
        "ple_keras.tabular.importance.ImportanceReport",
        "ple_keras.tabular.importance.Importance",
    ],
    "transfer_weights": ["ple_keras.transfer.transfer_weights.Transfer"],
}
# Pictures that functions draw, by path below docs/.
PICTURES = {
    "plot_gate_history": "examples/census_income-history.png",
    "plot_gate_weights": "examples/census_income-weights.png",
}
# Titles of folders of examples/.
FOLDERS = {
    ".": "One device",
    "distributed": "Several devices",
    "serving": "Serving",
    "benchmarks": "Benchmarks",
}


def navigation() -> list[dict[str, Any]]:
    """Return the navigation of the site."""
    topics = {
        topic: [{title: page} for title, page in PAGES[topic].items()]
        for topic in PAGES
    }
    start, *others = ({topic: topics[topic]} for topic in TABS)
    start["Start"].insert(0, {"Home": "README.md"})
    guide = {
        "Guide": [
            {topic: pages} for topic, pages in topics.items() if topic not in TABS
        ]
    }
    scripts_of = [
        {
            title: [
                {path.stem: f"examples/{path.with_suffix('.md')}"} for path in paths
            ]
        }
        for title, paths in scripts_by_folder().items()
    ]
    names = [
        {GROUPS[group]: [{name: f"reference/{name}.md"} for name in sorted(names)]}
        for group, names in public_names().items()
    ]
    return [
        start,
        guide,
        {"Examples": ["examples/index.md", *scripts_of]},
        *others,
        {
            "Reference": [
                "reference/index.md",
                *names,
                {"Changelog": "changelog.md"},
            ]
        },
    ]


def list_of_pages() -> str:
    """Return the rows of the table of pages in docs/README.md."""
    return "\n".join(
        f"| {topic} | {', '.join(f'[{title}]({page})' for title, page in pages.items())} |"
        for topic, pages in PAGES.items()
    )


def home_page(pages: str) -> str:
    """Return the beginning of the README, up to the heading after its first code, and the pages.

    Args:
        pages: The text of docs/README.md, whose own beginning is left out.
    """
    readme = (ROOT / "README.md").read_text()
    end = readme.index("\n## ", readme.index("```python"))
    beginning = re.sub(r"\]\((?!https?:|#)", "](../", readme[:end]).replace(
        "](../docs/", "]("
    )
    return beginning + pages[pages.index("\n## ") :]


def public_names() -> dict[str, list[str]]:
    """Return the public names of each subpackage, as `ple_keras/__init__.py` imports them."""
    tree = ast.parse((ROOT / "ple_keras" / "__init__.py").read_text())
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "ple_keras":
            names[node.module.split(".")[1]] += [
                x.name for x in node.names if not x.asname
            ]
    return names


def reference_index() -> str:
    """Return a page with links to all public names, by group."""
    lines = ["# Reference", "", "All names are attributes of `ple_keras`.", ""]
    for group, names in public_names().items():
        links = [f"[`{name}`]({name}.md)" for name in sorted(names)]
        lines += [f"**{GROUPS[group]}**: {', '.join(links)}", ""]
    return "\n".join(lines)


def reference_page(name: str) -> str:
    """Return a page with the docstrings of a public name and of the parts of a result."""
    parts = [f"::: ple_keras.{name}"]
    parts += [
        f"::: {path}\n    options:\n      heading_level: 2"
        for path in PARTS.get(name, [])
    ]
    if name in PICTURES:
        parts += ["**Picture:**", f"![A picture of {name}](../{PICTURES[name]})"]
    return "\n\n".join(parts) + "\n"


def docstring_of(script: Path) -> str:
    """Return the docstring of a script."""
    return (
        ast.get_docstring(ast.parse((ROOT / "examples" / script).read_text())) or ""
    )


def scripts_by_folder() -> dict[str, list[Path]]:
    """Return the scripts of each folder by its title."""
    return {
        title: [path for path in scripts() if str(path.parent) == folder]
        for folder, title in FOLDERS.items()
    }


def pages_with_code() -> dict[str, str]:
    """Return the code of each script, recipe and guide, by its link from the index of examples."""
    code = {}
    for path in scripts():
        if path.parts[0] == "benchmarks":
            continue
        link = f"[{path.name}]({path.with_suffix('.md')})"
        code[link] = (ROOT / "examples" / path).read_text()
    for pattern in ("recipes/*.md", "*.md"):
        for path in sorted((ROOT / "docs").glob(pattern)):
            text = path.read_text()
            title = text.partition("\n")[0].removeprefix("# ")
            blocks = re.findall(
                r"^```py(?:thon)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
            )
            code[f"[{title}](../{path.relative_to(ROOT / 'docs')})"] = "".join(
                blocks
            )
    return code


def examples_by_name() -> list[str]:
    """Return the rows of a table: public names, and up to three pages whose code uses each."""
    pages = pages_with_code()
    rows = ["| name | examples, recipes and guides |", "|---|---|"]
    for name in sorted(name for group in public_names().values() for name in group):
        pattern = re.compile(rf"\bpk\.{name}\b")
        links = [link for link, code in pages.items() if pattern.search(code)]
        rows.append(
            f"| [`{name}`](../reference/{name}.md) | {', '.join(links[:3])} |"
        )
    return rows


def examples_index() -> str:
    """Return a page with a line for each script, and the examples of each public name."""
    lines = [
        "# Examples",
        "",
        "Except for serving, each script is one file to copy.",
        "",
    ]
    for title, paths in scripts_by_folder().items():
        lines += [f"## {title}", ""]
        for path in paths:
            summary = docstring_of(path).partition("\n")[0]
            lines += [f"- [{path.name}]({path.with_suffix('.md')}): {summary}"]
        lines += [""]
    lines += ["## By public name", "", *examples_by_name(), ""]
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
        title = (
            (ROOT / "docs" / results)
            .read_text()
            .partition("\n")[0]
            .removeprefix("# ")
        )
        link = f"[{title}]({'../' * len(path.parts)}{results})"
        return f"## Results\n\nThe results are on the page {link}."
    output = OUTPUTS / path.with_suffix(".txt")
    if not output.exists():
        return ""
    command, versions, _, printed = output.read_text().split("\n", 3)
    parts = [
        "## Output",
        f"```bash\n{command.removeprefix('$ ')}\n```",
        f"{versions}:",
    ]
    parts += [f"```text\n{printed.rstrip()}\n```"]
    pictures = sorted(output.parent.glob(f"{path.stem}-*.png"))
    parts += ["## Pictures"] if pictures else []
    for picture in pictures:
        name = picture.name.removeprefix(f"{path.stem}-")
        parts += [f"`{name}`:", f"[![{name}]({picture.name})]({picture.name})"]
    return "\n\n".join(parts)
