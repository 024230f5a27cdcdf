"""Public docstrings are complete, and their examples run and print the documented output."""

import doctest
import inspect
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import once

pytestmark = once

PUBLIC = {n: value for n, value in vars(pk).items() if callable(value) and n[0] != "_"}


def public_methods(documented):
    """Return the methods that a class of this package adds to the methods of Keras."""
    if not inspect.isclass(documented):
        return []
    inherited = [cls for cls in documented.__mro__ if not cls.__module__.startswith("ple_keras.")]
    of_keras = {name for cls in inherited for name in vars(cls)}
    methods = inspect.getmembers(documented, inspect.isfunction)
    return [method for name, method in methods if name[0] != "_" and name not in of_keras]


METHODS = {method for documented in PUBLIC.values() for method in public_methods(documented)}
WITH_EXAMPLES = [
    *PUBLIC.values(),
    *sorted((m for m in METHODS if ">>>" in (m.__doc__ or "")), key=lambda m: m.__qualname__),
]


@pytest.mark.parametrize("documented", WITH_EXAMPLES, ids=lambda x: x.__qualname__)
def test_docstring_examples_run_and_print_their_output(documented):
    # Automatic names begin again. A garbage collection would take longer than the example.
    keras.utils.clear_session(free_memory=False)
    doc = inspect.getdoc(documented)
    names = {**PUBLIC, "keras": keras, "np": np}
    example = doctest.DocTestParser().get_doctest(doc, names, documented.__name__, None, None)
    assert example.examples
    printed = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    result = runner.run(example, out=printed.append)
    assert result.failed == 0, "".join(printed)


SECTIONS = ["Args", "Attributes", "Call arguments", "Returns"]
SECTIONS += ["Raises", "Warns", "Reference", "Example"]
TITLE = re.compile(r"^([A-Z][A-Za-z ]+):$", re.MULTILINE)


def sections(documented):
    """Return the texts of the sections of a docstring by title, in order."""
    _, *parts = TITLE.split(inspect.getdoc(documented))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def undescribed(function, section):
    """Return the parameters of a function that a section does not describe."""
    described = re.findall(r"^ {4}\**(\w+): ", section, re.MULTILINE)
    return [name for name in inspect.signature(function).parameters if name not in described]


@pytest.mark.parametrize("documented", PUBLIC.values(), ids=lambda x: x.__name__)
def test_sections_have_the_names_and_the_order_of_keras(documented):
    for described in [documented, *public_methods(documented)]:
        titles = TITLE.findall(inspect.getdoc(described))
        assert titles == [title for title in SECTIONS if title in titles], described


@pytest.mark.parametrize("documented", PUBLIC.values(), ids=lambda x: x.__name__)
def test_every_argument_is_documented(documented):
    found = sections(documented)
    assert undescribed(documented, found.get("Args", found.get("Attributes", ""))) == []


def called_method(documented):
    """Return the method that documents a call of a layer, of a loss, or of a factory's layer."""
    if inspect.isfunction(documented):
        documented = inspect.signature(documented).return_annotation
    if not inspect.isclass(documented):
        return None
    if issubclass(documented, keras.Loss):
        return documented.__call__
    is_layer = issubclass(documented, keras.Layer) and not issubclass(documented, keras.Model)
    return documented.call if is_layer else None


@pytest.mark.parametrize(
    "documented", [*filter(called_method, PUBLIC.values())], ids=lambda x: x.__name__
)
def test_calls_of_layers_and_losses_are_documented(documented):
    found, call = sections(documented), called_method(documented)
    assert undescribed(call, found["Call arguments"]) == ["self"]
    assert re.search(r"`[({].*[)}]`|scalar", found["Returns"])  # a shape, even in a dict
    assert not TITLE.findall(call.__doc__ or "")  # another docstring has the text


@pytest.mark.parametrize(
    "documented", [*filter(public_methods, PUBLIC.values())], ids=lambda x: x.__name__
)
def test_every_parameter_of_public_methods_is_documented(documented):
    for method in public_methods(documented):
        # An override without a docstring inherits the base class's.
        inherited = getattr(documented, method.__name__)
        assert undescribed(inherited, sections(inherited).get("Args", "")) == ["self"], method
