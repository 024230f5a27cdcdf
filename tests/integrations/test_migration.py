"""Trained models of DeepCTR and torch-rechub are copied, and predict the same.

The functions are from the examples. Files with the weights of both packages are always compared.
If a package is installed, models with other settings are compared too.
"""

import importlib.util
import zipfile
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest

from tests.helpers import assert_same, numpy_of, once
from tests.integrations.migration import write_files
from tests.integrations.migration.write_files import DEEPCTR, FOLDER, RECHUB, TASKS, X
from tests.models import loaded
from tests.processes import EXAMPLES, load_module, run_example
from tests.recorded_outputs import check_form

from_deepctr = load_module(EXAMPLES / "from_deepctr.py")
ABSENT = {
    "SparseFeat": {"dtype": "int32", "group_name": "default_group", "transform_fn": None},
    "DenseFeat": {"dtype": "float32", "transform_fn": None},
    "SparseFeature": {"shared_with": None},
    "DenseFeature": {},
}
# Changes to the settings of the files.
DEEPCTR_CASES = {
    "one level": {"num_levels": 1, "specific_expert_num": 3},
    "three levels": {"num_levels": 3, "dnn_use_bn": False},
    "no gate networks": {"gate_dnn_hidden_units": (), "dnn_activation": "relu"},
    "no towers": {"tower_dnn_hidden_units": (), "expert_dnn_hidden_units": (4,)},
    "no shared experts": {"shared_expert_num": 0, "num_levels": 3},
    "no task experts": {"specific_expert_num": 0, "dnn_use_bn": False},
    "two tasks": {"task_types": ("regression", "binary"), "task_names": ("share", "click")},
}
RECHUB_CASES = {
    "one level": {"n_level": 1, "n_expert_specific": 3},
    "three levels": {"n_level": 3, "n_expert_specific": 2, "n_expert_shared": 1},
    "no shared experts": {"n_expert_shared": 0, "n_expert_specific": 2},
    "one expert, no gate": {"n_level": 1, "n_expert_shared": 0},
    "two tasks": {
        "task_types": ["regression", "classification"],
        "tower_params_list": RECHUB["tower_params_list"][:2],
    },
}
both_forms = pytest.mark.parametrize("keep_batch_norms", [False, True], ids=["merged", "kept"])


def stand_ins(columns):
    """Return objects with the attributes of the packages' columns."""
    found = []
    for kind, arguments in columns:
        column = {**ABSENT[kind], "embedding_name": arguments["name"], "dimension": 1, **arguments}
        if "embedding_dim" in column or "embed_dim" in column:
            column.pop("dimension", None)
        found.append(SimpleNamespace(**column))
    return found


@pytest.fixture(scope="module")
def from_rechub():
    pytest.importorskip("torch")
    return load_module(EXAMPLES / "from_torch_rechub.py")


@pytest.fixture(scope="module")
def deepctr_file(tmp_path_factory):
    """Return the weights of the file, and its predictions."""
    folder = tmp_path_factory.mktemp("deepctr")
    with zipfile.ZipFile(FOLDER / "deepctr.zip") as archive:
        archive.extractall(folder)
    with np.load(folder / "results.npz") as results:
        return from_deepctr.read_h5(folder / "ple.h5"), dict(results)


@pytest.fixture(scope="module")
def rechub_file():
    """Return the state of the file, and its predictions in inference and in training mode."""
    with np.load(FOLDER / "torch_rechub.npz") as file:
        arrays = dict(file)
    state = {n.removeprefix("state/"): a for n, a in arrays.items() if n.startswith("state/")}
    return state, by_task(arrays["eval"]), by_task(arrays["train"])


def by_task(predictions, tasks=TASKS):
    return {task: predictions[:, i : i + 1] for i, task in enumerate(tasks)}


def build_deepctr(**changes):
    """Return a model of the settings of the file of DeepCTR, with changes."""
    return from_deepctr.build(stand_ins(write_files.DEEPCTR_COLUMNS), **{**DEEPCTR, **changes})


def build_rechub(from_rechub, **changes):
    """Return a model of the settings of the file of torch-rechub, with changes."""
    settings = {**RECHUB, "task_names": TASKS, **changes}
    return from_rechub.build(stand_ins(write_files.RECHUB_FEATURES), **settings)


def predict(model, training=False):
    return numpy_of(model(X, training=training))


@once
def test_the_weights_of_deepctr_in_a_file_of_keras_2_predict_the_same(deepctr_file, tmp_path):
    weights, expected = deepctr_file
    model = build_deepctr(seed=1)
    from_deepctr.copy_weights(weights, model, TASKS)
    assert_same(predict(model), expected)
    assert_same(predict(loaded(model, tmp_path)), expected)


@once
@both_forms
def test_the_weights_of_torch_rechub_in_a_file_predict_the_same(
    from_rechub, rechub_file, keep_batch_norms, tmp_path
):
    state, expected, in_training = rechub_file
    model = build_rechub(from_rechub, keep_batch_norms=keep_batch_norms)
    from_rechub.copy_weights(state, model, TASKS)
    assert_same(predict(model), expected)
    if keep_batch_norms:
        assert_same(predict(model, training=True), in_training)
    else:
        assert_same(predict(loaded(model, tmp_path)), expected)


@once
@both_forms
def test_the_units_of_a_gate_block_that_its_gate_does_not_select_stay_0(
    from_rechub, rechub_file, keep_batch_norms
):
    model = build_rechub(from_rechub, keep_batch_norms=keep_batch_norms)
    from_rechub.copy_weights(rechub_file[0], model, TASKS)
    model.compile("adam")
    model.fit(X, {task: np.arange(16) % 2 for task in TASKS}, epochs=2, verbose=0)
    weights = snapshot(model)
    gate, selected = "ple/cgc_block_0/gate-click", 3  # one expert of the task, two shared ones
    assert weights[f"{gate}/projection/kernel"][:selected].any()
    assert not weights[f"{gate}/projection/kernel"][selected:].any()
    assert not weights[f"{gate}/block/dense_0/kernel"][:, selected:].any()
    assert not np.array_equal(weights[f"{gate}/projection/kernel"][:selected], np.eye(3))


def needs(package, backend):
    is_absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(
        is_absent or keras.backend.backend() != backend, reason=f"it needs {package} and {backend}"
    )


needs_deepctr, needs_rechub = needs("deepctr", "tensorflow"), needs("torch_rechub", "torch")


def without(settings, *names):
    return {name: value for name, value in settings.items() if name not in names}


COUNTS = ("shared_expert_num", "specific_expert_num", "num_levels")
OF_BOTTOM = (*COUNTS, "expert_dnn_hidden_units", "gate_dnn_hidden_units")
DEEPCTR_MODELS = [
    *[pytest.param("PLE", {**DEEPCTR, **c}, id=name) for name, c in DEEPCTR_CASES.items()],
    ("MMOE", {**without(DEEPCTR, *COUNTS), "num_experts": 3}),
    ("SharedBottom", {**without(DEEPCTR, *OF_BOTTOM), "bottom_dnn_hidden_units": (4, 3)}),
]


@needs_deepctr
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1 of a tensor of shape")
@pytest.mark.parametrize(("kind", "settings"), DEEPCTR_MODELS)
def test_models_of_deepctr_predict_the_same(kind, settings):
    feature_column, models = from_deepctr.import_deepctr()
    columns = [getattr(feature_column, kind)(**c) for kind, c in write_files.DEEPCTR_COLUMNS]
    source = getattr(models, kind)(columns, **settings)
    check_copy(source, from_deepctr.build(columns, **settings), X)


def check_copy(source, model, x):
    """Check that a model predicts as one of DeepCTR with random weights, which are copied."""
    source(x)  # adds the batch norms
    rng = np.random.default_rng(0)
    for weight in source.weights:
        weight.assign(write_files.random_array(weight.name, weight.shape, rng))
    tasks = list(model.output)
    from_deepctr.copy_weights(from_deepctr.read_weights(source), model, tasks)
    assert_same(numpy_of(model(x)), dict(zip(tasks, map(np.asarray, source(x)))))


@needs_deepctr
def test_columns_of_deepctr_may_share_a_table_and_have_groups():
    feature_column, models = from_deepctr.import_deepctr()
    sparse = feature_column.SparseFeat
    columns = [
        sparse("user", 6, 2, group_name="a"),
        sparse("item", 7, 3, group_name="b"),
        sparse("age", 6, 2, group_name="a", embedding_name="user"),
    ]
    x = {name: np.arange(5) for name in ("user", "item", "age")}
    source, model = models.PLE(columns, num_levels=1), from_deepctr.build(columns, num_levels=1)
    check_copy(source, model, x)


OF_ANY = without(RECHUB, "n_level", "n_expert_specific", "n_expert_shared", "expert_params")
BOTTOM = {"dims": [4, 3], "output_layer": False}
RECHUB_MODELS = [
    *[pytest.param("PLE", {**RECHUB, **c}, id=name) for name, c in RECHUB_CASES.items()],
    ("MMOE", {**OF_ANY, "n_expert": 3, "expert_params": {"dims": [4, 3]}}),
    ("SharedBottom", {**OF_ANY, "bottom_params": BOTTOM}),
]


@needs_rechub
@both_forms
@pytest.mark.parametrize(("kind", "settings"), RECHUB_MODELS)
def test_models_of_torch_rechub_predict_the_same(from_rechub, kind, settings, keep_batch_norms):
    import torch

    basic, rechub, _ = from_rechub.import_rechub()
    tasks = TASKS[: len(settings["task_types"])]
    features = [getattr(basic, kind)(**f) for kind, f in write_files.RECHUB_FEATURES]
    source = getattr(rechub, kind)(features, **settings)
    write_files.randomize_state(source)
    x = {name: torch.from_numpy(column) for name, column in X.items()}
    with torch.no_grad():
        expected = by_task(source.eval()(x).numpy(), tasks)
    arguments = {"task_names": tasks, "keep_batch_norms": keep_batch_norms}
    model = from_rechub.build(features, **settings, **arguments)
    from_rechub.copy_weights(source.state_dict(), model, tasks)
    assert_same(predict(model), expected)


@pytest.mark.parametrize(
    "package",
    [
        pytest.param("deepctr", marks=needs_deepctr),
        pytest.param("torch_rechub", marks=needs_rechub),
    ],
)
def test_the_script_trains_and_copies_a_model(package, tmp_path):
    out = run_example(f"from_{package}.py", "--rows", "1000", cwd=tmp_path)
    check_form(f"from_{package}.py", out)
    differences = [float(line.split()[-1]) for line in out.splitlines()[-2:]]
    assert max(differences) < 1e-5
    assert (tmp_path / f"from_{package}.keras").exists()


def snapshot(model):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


@once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_levels": 1}, r"has no weights \['ple/cgc_block_0/gate-shared/block/.* in all$"),
        ({"dnn_use_bn": False}, r"has no weights \['heads/click_head/tower/normalization_0/beta'"),
        ({"tower_dnn_hidden_units": (5, 4, 2)}, r"no arrays .* \['heads/click_head/tower/dense_2"),
        ({"tower_dnn_hidden_units": (3, 4)}, r"tower/dense_0/kernel has the shape \(6, 3\)"),
        ({"shared_expert_num": 1}, r"has no weights \['ple/cgc_block_0/experts/expert-shared-1"),
        ({"shared_expert_num": 3}, r"no arrays .* \['ple/cgc_block_0/experts/bias_0'"),
    ],
)
def test_a_model_that_differs_from_deepctrs_is_refused(deepctr_file, changes, message):
    check_copy_refused(from_deepctr, build_deepctr(**changes), deepctr_file[0], message)


@once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_level": 1}, r"no layer was found for \['cgc_layers.1"),
        ({"n_expert_shared": 1}, r"no layer was found for \['cgc_layers.0.experts_shared.1"),
        ({"n_expert_shared": 3}, r"no arrays .* \['ple/cgc_block_0/experts/bias_0'"),
        ({"expert_params": {"dims": [5, 3]}}, r"experts/kernel_0 has the shape \(5, 7, 5\)"),
    ],
)
def test_a_model_that_differs_from_torch_rechubs_is_refused(
    from_rechub, rechub_file, changes, message
):
    check_copy_refused(from_rechub, build_rechub(from_rechub, **changes), rechub_file[0], message)


def check_copy_refused(script, model, weights, message):
    """Check that weights of a file are not copied to a model of changed settings."""
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        script.copy_weights(weights, model, TASKS)
    assert_same(snapshot(model), before, atol=0)


@once
def test_names_in_a_file_of_keras_2_may_be_bytes(tmp_path):
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"dense"])
        file["dense/dense/kernel:0"] = np.ones((2, 3))
        file["dense"].attrs["weight_names"] = np.array([b"dense/kernel:0"])
    weights = from_deepctr.read_h5(tmp_path / "old.h5")
    assert {name: array.shape for name, array in weights.items()} == {"dense/kernel": (2, 3)}


@once
def test_a_file_of_keras_3_is_refused_for_weights_of_deepctr(tmp_path):
    path = tmp_path / "ple.weights.h5"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save_weights(path)
    with pytest.raises(ValueError, match=r"ple.weights.h5 must be a Keras 2 file"):
        from_deepctr.read_h5(path)


@once
def test_columns_and_activations_without_an_equivalent_are_refused(from_rechub):
    hashed = stand_ins([("SparseFeat", {"name": "user", "vocabulary_size": 6, "embedding_dim": 3})])
    hashed[0].use_hash = True
    with pytest.raises(ValueError, match=r"user has \['use_hash'\]"):
        from_deepctr.build(hashed)
    sequence = stand_ins([("SparseFeature", {"name": "user", "vocab_size": 6, "embed_dim": 2})])
    sequence[0].pooling = "mean"
    with pytest.raises(ValueError, match="user is a SequenceFeature"):
        from_rechub.build(sequence, **RECHUB, task_names=TASKS)
    settings = {**RECHUB, "expert_params": {"dims": [3], "activation": "dice"}}
    with pytest.raises(ValueError, match="'dice'"):
        from_rechub.build(sequence, **settings, task_names=TASKS)
