"""Public names and import cost of the package, and Keras's plots of its models."""

import re
from pathlib import Path

import keras
import pytest

import ple_keras as pk
from tests.helpers import once
from tests.models import chain
from tests.processes import ROOT, run_to_end

pytestmark = once

IMPORT = """
import sys, threading
import keras
before, threads = set(sys.modules), threading.active_count()
import ple_keras as pk
new = {name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(sorted(new), threading.active_count() - threads)
heads = pk.TaskHeads([pk.BinaryHead("click", tower=[3]), pk.RegressionHead("time")])
block = pk.PLEBlock(2, heads, pk.ExpertBlock([3], normalization="batch"), gate_block=[2])
template = keras.Sequential([keras.layers.Dense(4)])
inputs = keras.Input((4,))
model = pk.MultiTaskModel(inputs, heads(block(pk.SequentialBlock([template])(inputs))))
model.compile("adam")
print("tensorflow" in sys.modules)
print(*sys.modules)
"""


def public_names():
    return {n for n, value in vars(pk).items() if callable(value) and not n.startswith("_")}


def test_all_lists_the_public_names():
    assert public_names() == set(pk.__all__)


@pytest.mark.nightly
def test_the_import_registers_all_classes_of_files_and_a_model_imports_nothing_else():
    """Keras's serialization imports TensorFlow if it is installed."""
    *lines, imported = run_to_end("-c", IMPORT).splitlines()
    assert lines == ["['ple_keras'] 0", "False"]
    files = Path(pk.__file__).parent.rglob("*.py")
    registering = [file for file in files if re.search(r"^@register$", file.read_text(), re.M)]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in registering}
    assert names - {*imported.split()} == set()


def test_a_plot_of_keras_shows_dict_outputs():
    heads = pk.TaskHeads([pk.BinaryHead("a", tower=[3]), pk.RegressionHead("b")])
    model = chain(pk.PLEBlock(2, heads, [4, 3]), heads)
    pytest.importorskip("pydot")
    dot = keras.utils.model_to_dot(model, show_shapes=True, show_dtype=True, expand_nested=True)
    assert "SequentialBlock" in dot.to_string()
