"""Examples in the public docstrings run and print the documented output."""

import doctest
import inspect

import keras
import numpy as np
import pytest

import ple_keras as pk

PUBLIC = {n: value for n, value in vars(pk).items() if callable(value) and n[0] != "_"}
METHODS = {
    method
    for documented in PUBLIC.values()
    for name, method in inspect.getmembers(documented, inspect.isfunction)
    if name[0] != "_"
    and method.__module__.startswith("ple_keras.")
    and ">>>" in (method.__doc__ or "")
}
WITH_EXAMPLES = [*PUBLIC.values(), *sorted(METHODS, key=lambda method: method.__qualname__)]


@pytest.mark.parametrize("documented", WITH_EXAMPLES, ids=lambda x: x.__qualname__)
def test_docstring_examples_run_and_print_their_output(documented):
    doc = inspect.getdoc(documented)
    names = {**PUBLIC, "keras": keras, "np": np}
    example = doctest.DocTestParser().get_doctest(doc, names, documented.__name__, None, None)
    assert example.examples
    printed = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(
        example, out=printed.append
    )
    assert result.failed == 0, "".join(printed)


@pytest.mark.parametrize("documented", PUBLIC.values(), ids=lambda x: x.__name__)
def test_every_argument_is_documented(documented):
    doc = inspect.getdoc(documented)
    for name in inspect.signature(documented).parameters:
        assert f"{name}:" in doc, name
