"""The Python code that runs in a step, and whether it does the same in every step."""

import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType

# ple_keras, PyTorch, Keras, and what Keras imports.
LIBRARIES = (
    "absl", "jax", "jaxlib", "keras", "ml_dtypes", "numpy", "optree", "packaging", "ple_keras",
    "tensorflow", "torch",
)  # fmt: skip
# Code that runs a layer again in the backward pass, or modules with weights of their own.
UNTRACEABLE = ("torch/utils/checkpoint.py", "keras/src/utils/torch_utils.py")


@contextmanager
def find_unknown_code() -> Iterator[dict[CodeType, str | None]]:
    """Find user code that runs in this thread, with a profile of the calls of functions.

    Yields:
        A dict that contains the findings at the end: code objects of users with their file and
        line, and code of libraries that can't be traced with None.
    """
    calls: dict[CodeType, Mapping[str, object]] = {}
    found: dict[CodeType, str | None] = {}

    def see(frame: FrameType, event: str, function: object) -> None:
        if event == "call":
            calls.setdefault(frame.f_code, frame.f_globals)

    sys.setprofile(see)
    try:
        yield found
    finally:
        sys.setprofile(None)
        for code, names in calls.items():
            if code.co_filename.endswith(UNTRACEABLE):
                found[code] = None
            elif not _is_known(code.co_filename, names):
                found[code] = f"{code.co_filename}:{code.co_firstlineno}"


def _is_known(file: str, names: Mapping[str, object]) -> bool:
    """Return whether code is part of a library or of the standard library.

    Args:
        file: The file of the code.
        names: The globals of the code. They show the library of code without a file ("<string>").
    """
    if not file.startswith("<"):
        return is_known_file(file)
    # A frozen module can have another `__name__`.
    name = str(getattr(names.get("__spec__"), "name", names.get("__name__")))
    package = name.partition(".")[0]
    is_library = package in LIBRARIES or package in sys.stdlib_module_names
    is_module = vars(sys.modules.get(name, os)) is names  # a doctest has a copy
    return (is_library and is_module) or name.startswith("namedtuple_")


@cache
def is_known_file(file: str) -> bool:
    """Return whether a file is part of a library or of the standard library."""
    path = os.path.realpath(file)
    origins = [getattr(sys.modules.get(name), "__file__", None) for name in LIBRARIES]
    folders = [os.path.dirname(os.path.realpath(origin)) for origin in origins if origin]
    if path.startswith(tuple(folder + os.sep for folder in folders)):
        return True
    standard = [os.path.realpath(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib")]
    is_standard = path.startswith(tuple(folder + os.sep for folder in standard))
    return is_standard and not {"site-packages", "dist-packages"} & {*path.split(os.sep)}
