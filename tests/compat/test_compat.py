"""Files of released versions, in tests/compat/. A loaded model equals the saved model."""

import functools
import gc

import keras
import pytest

from tests.compat.load_files import archives, check

OTHER = {"torch": "jax", "jax": "tensorflow", "tensorflow": "torch"}[keras.backend.backend()]
FEW = ("copied_subclass_experts", "hedged", "sequences", "subclassed_model")


def is_nightly(archive):
    """Whether the nightly tests alone read a file.

    The others read the files of 0.2.0 that one other backend wrote, and a few of the other files.
    """
    return archive.stem not in FEW and not archive.match(f"0.2.0/{OTHER}/*")


FILES = [
    pytest.param(
        archive,
        marks=pytest.mark.nightly if is_nightly(archive) else (),
        id="-".join([*archive.parts[-3:-1], archive.stem]),
    )
    for archive in archives()
]
# No backend changes how the arrays of a weights file are found: the others read them nightly.
ENDINGS = [
    ".keras",
    pytest.param(
        ".weights.h5", marks=[] if keras.backend.backend() == "torch" else pytest.mark.nightly
    ),
]


@functools.cache
def differences(archive, ending):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda generation=2: 0)  # slow: Keras runs it when quantizing
        return check(archive, ending)


def test_files_of_every_backend_are_tested():
    assert {archive.parent.name for archive in archives()} == {"jax", "tensorflow", "torch"}


@pytest.mark.parametrize("archive", FILES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_loaded_file_gives_the_recorded_results(archive, ending):
    found = differences(archive, ending)
    if found["skipped"]:
        pytest.skip(found["skipped"])
    if found["results"]:
        pytest.fail("\n".join(found["results"]), pytrace=False)


@pytest.mark.parametrize("archive", FILES)
def test_the_weights_of_loaded_models_have_the_recorded_paths(archive):
    moved = differences(archive, ".keras")["paths"]
    if moved:
        pytest.fail("\n".join(moved), pytrace=False)
