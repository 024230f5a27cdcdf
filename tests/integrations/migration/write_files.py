"""Write the files of this folder, with the weights of other packages.

    pip install deepctr tf-keras torch torch-rechub
    TF_USE_LEGACY_KERAS=1 python -m tests.integrations.migration.write_files

- `deepctr.zip`: `ple.h5`, the weights of a PLE of DeepCTR 0.9.4, written by Keras 2 (tf-keras 2.21
  with TensorFlow 2.21), and `results.npz`, its inputs and predictions.
- `torch_rechub.npz`: the same for a PLE of torch-rechub 0.9.0 with PyTorch 2.13, and predictions in
  training mode.

Weights are random, since DeepCTR's experts are equal at first. The tests import the settings.
"""

import tempfile
import zipfile
from pathlib import Path
from threading import Thread
from unittest import mock

import numpy as np

FOLDER = Path(__file__).parent
TASKS = ["click", "watch_time", "share"]
X = {
    "user": np.arange(16) % 6,
    "item": np.arange(16) % 5,
    "age": np.linspace(-1, 1, 16, dtype="float32"),
    "numbers": np.sin(np.arange(32, dtype="float32").reshape(16, 2)),
}
DEEPCTR_COLUMNS = [
    ("DenseFeat", {"name": "age"}),
    ("SparseFeat", {"name": "user", "vocabulary_size": 6, "embedding_dim": 3}),
    ("DenseFeat", {"name": "numbers", "dimension": 2}),
    ("SparseFeat", {"name": "item", "vocabulary_size": 5, "embedding_dim": 2}),
]
DEEPCTR = {
    "shared_expert_num": 2,
    "specific_expert_num": 1,
    "num_levels": 2,
    "expert_dnn_hidden_units": (8, 6),
    "tower_dnn_hidden_units": (5, 4),
    "gate_dnn_hidden_units": (3,),
    "dnn_activation": "tanh",  # with few units, ReLU is constant for most inputs
    "dnn_use_bn": True,
    "task_types": ("binary", "regression", "binary"),
    "task_names": tuple(TASKS),
}
RECHUB_FEATURES = [
    ("DenseFeature", {"name": "age", "embed_dim": 1}),
    ("SparseFeature", {"name": "user", "vocab_size": 6, "embed_dim": 2}),
    ("DenseFeature", {"name": "numbers", "embed_dim": 2}),
    ("SparseFeature", {"name": "item", "vocab_size": 5, "embed_dim": 2}),
]
RECHUB = {
    "task_types": ["classification", "regression", "classification"],
    "n_level": 2,
    "n_expert_specific": 1,
    "n_expert_shared": 2,
    "expert_params": {"dims": [8, 6], "activation": "relu", "dropout": 0.0},
    "tower_params_list": [
        {"dims": dims, "activation": "sigmoid", "dropout": 0.0} for dims in ([5, 4], [], [4])
    ],
}


def random_array(name, shape, rng):
    """Return random values of a weight. Variances differ from 1, the default."""
    if name.endswith(("moving_variance", "running_var")):
        return rng.uniform(0.2, 2, shape).astype("float32")
    return rng.normal(scale=0.9, size=shape).astype("float32")


def randomize_state(module, seed=0):
    """Assign random values to a module of PyTorch."""
    import torch

    rng = np.random.default_rng(seed)
    state = {
        name: torch.from_numpy(random_array(name, tuple(value.shape), rng))
        for name, value in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    module.load_state_dict(state, strict=False)


def draw_weights(randomize, predict):
    """Draw weights until the predictions `(rows, 1)` of each task differ between rows.

    Otherwise, misplaced weights would hardly change them.
    """
    for seed in range(1000):
        randomize(seed)
        predictions = predict()
        if min(np.std(values) for values in predictions) > 0.1:
            return predictions
    raise ValueError("no seed was found.")


def write_deepctr():
    with mock.patch.object(Thread, "start"):  # its import queries PyPI for a newer version
        from deepctr import feature_column
        from deepctr.models import PLE

    model = PLE([getattr(feature_column, kind)(**c) for kind, c in DEEPCTR_COLUMNS], **DEEPCTR)

    def randomize(seed):
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            weight.assign(random_array(weight.name.removesuffix(":0"), weight.shape, rng))

    predictions = draw_weights(randomize, lambda: model.predict(X, verbose=0))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("ple.h5", "results.npz")]
        model.save_weights(files[0])
        np.savez(files[1], **dict(zip(TASKS, predictions)))
        with zipfile.ZipFile(FOLDER / "deepctr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)


def write_torch_rechub():
    import torch
    from torch_rechub.basic import features
    from torch_rechub.models.multi_task import PLE

    model = PLE([getattr(features, kind)(**f) for kind, f in RECHUB_FEATURES], **RECHUB)
    tensors = {name: torch.from_numpy(column) for name, column in X.items()}
    with torch.no_grad():
        model.eval()
        draw_weights(lambda seed: randomize_state(model, seed), lambda: model(tensors).numpy().T)
        arrays = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
        arrays = {name: value.copy() for name, value in arrays.items()}  # training changes them
        arrays |= {"eval": model(tensors).numpy(), "train": model.train()(tensors).numpy()}
    np.savez_compressed(FOLDER / "torch_rechub.npz", **arrays)


if __name__ == "__main__":
    write_deepctr()
    write_torch_rechub()
