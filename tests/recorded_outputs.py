"""The outputs of the examples that docs/run_examples.py recorded, compared with new ones."""

import re
from pathlib import PurePath

from tests.processes import ROOT, load_module

run_examples = load_module(ROOT / "docs" / "run_examples.py")
OUTPUTS = run_examples.OUTPUTS
# Numbers, with units of time, or "-" instead; names of files and of backends.
VARYING = re.compile(
    r"\S+\.keras|\b(?:jax|tensorflow|torch)\b|(?<= )-(?= )|"
    r"[-+]?\b(?:\d[\d.,]*(?:e[-+]?\d+)?(?:[mu]?s\b|%)?|nan\b)"
)
# Warnings and verdicts of reports, which depend on the data. Messages of Gloo, which several
# processes write into each other's lines.
IGNORED = re.compile(
    r"^Warnings\n(?:.+\n)*|, so training has not settled|"
    r"^.*(?:\[Gloo\]|peer ranks).*\n?",
    re.MULTILINE,
)


def recorded(script):
    """Return the command, the versions, and the printed text of a script."""
    text = (OUTPUTS / script).with_suffix(".txt").read_text()
    command, versions, _, printed = text.split("\n", 3)
    return command, versions, printed


def form(printed):
    """Return the distinct lines, without numbers and names that vary between runs.

    Messages of Gloo, which are removed, can leave empty lines.
    """
    lines = VARYING.sub("#", IGNORED.sub("", run_examples.clean(printed))).splitlines()
    return {re.sub(r"[\s#]+", " ", line).strip() for line in lines} - {""}


def check_form(script, printed):
    """Check that a script prints the recorded lines with other numbers."""
    name = PurePath(script).stem
    message = f"The output has another form now. Run: python docs/run_examples.py {name}"
    differing = form(printed) ^ form(recorded(script)[2])
    assert not differing, message
