"""Run examples, and write their outputs and pictures to docs/examples/, for the site.

    python docs/run_examples.py                     # all, in half an hour
    python docs/run_examples.py recommender compare  # some

Each script runs in an empty folder, with the first command of its docstring.
"""

import datetime
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUTS = ROOT / "docs" / "examples"
# Instead of the arguments of the first command in the docstring.
ARGUMENTS = {
    "compare": "--search 4",
    "ray_train": "--kill",
}
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
# Files that are not run, and the page that shows their results or their use.
RESULTS = {
    "benchmarks/against_boosting.py": "results/against_boosting.md",
    "benchmarks/assays.py": "many_targets.md",
    "benchmarks/ensembles.py": "results/ensembles.md",
    "benchmarks/every_day.py": "results/every_day.md",
    "benchmarks/false_statements.py": "maintainers/false_statements.md",
    "benchmarks/never_worse.py": "results/never_worse.md",
    "benchmarks/policies.py": "maintainers/against_boosting.md",
    "benchmarks/quantiles.py": "maintainers/against_boosting.md",
    "benchmarks/recommender_seeds.py": "choosing.md",
    "benchmarks/retail.py": "results/against_boosting.md",
    "benchmarks/small_job.py": "performance.md",
    "benchmarks/step_time.py": "performance.md",
    "benchmarks/targets.py": "many_targets.md",
    "benchmarks/whole_job.py": "performance.md",
    "benchmarks/wide_tables.py": "performance.md",
    "serving/drift.py": "columns.md",
    "serving/load_test.py": "serving.md",
    "serving/model_folder.py": "serving.md",
    "serving/serve.py": "serving.md",
}


def scripts() -> list[Path]:
    """Return the scripts that users run, by their path below examples/."""
    found = sorted((ROOT / "examples").rglob("*.py"))
    return [
        path.relative_to(ROOT / "examples") for path in found if path.name[0] != "_"
    ]


def clean(printed: str) -> str:
    """Remove the messages of Gloo and of Ray, and spaces at the ends of lines."""
    pattern = r"^(?:\[Gloo\]|\x1b\[\d+m\(raylet\)).*\n| +$"
    return re.sub(pattern, "", printed, flags=re.M).strip("\n")


def run(path: Path) -> None:
    """Run a script. Write its command, the versions and its output, and its pictures."""
    from PIL import (
        Image,
    )  # installed with matplotlib, and not needed to build the site

    code = (ROOT / "examples" / path).read_text()
    (prefix, arguments), *_ = re.findall(
        rf"^    (.*python examples/{path})(.*?)(?:  +#.*)?$", code, re.M
    )
    command = f"{prefix} {ARGUMENTS.get(path.stem, arguments)}".split()
    (backend, *_) = re.findall(r'KERAS_BACKEND(?:=|"\] = ")(\w+)', code)
    names = {"keras": "Keras", backend: BACKENDS[backend]}
    versions = [
        f"{name} {importlib.metadata.version(package).partition('+')[0]}"
        for package, name in names.items()
    ]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        first = command.index("python")
        result = subprocess.run(
            [sys.executable, ROOT / command[first + 1], *command[first + 2 :]],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=folder,
            env={**os.environ, "KERAS_BACKEND": backend},
        )
        output = OUTPUTS / path.with_suffix(".txt")
        output.parent.mkdir(parents=True, exist_ok=True)
        made = f"Printed on {datetime.date.today()} with {' and '.join(versions)}"
        printed = clean(result.stdout.replace(f"{folder}/", ""))
        output.write_text(f"$ {' '.join(command)}\n{made}\n\n{printed}\n")
        for old in output.parent.glob(f"{path.stem}-*.png"):
            old.unlink()
        for picture in Path(folder).rglob("*.png"):
            with Image.open(picture) as image:
                image.thumbnail((1600, 1600))
                small = image.convert("RGB").quantize(64)
            small.save(output.parent / f"{path.stem}-{picture.name}", optimize=True)
    print(f"{path}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    paths = {path.stem: path for path in scripts() if str(path) not in RESULTS}
    names = sys.argv[1:] or [*paths]
    if not {*names} <= {*paths}:
        sys.exit(
            f"Names must be some of {', '.join(paths)}. Received: {' '.join(names)}"
        )
    for name in names:
        run(paths[name])
