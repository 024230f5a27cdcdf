"""The job of `whole_job`: its data, the scores of predictions, and a run per library.

The data are simulated impressions: a click, and after a click a purchase ("buy") and the logarithm
of the time until the next action ("seconds"), standardized. Without a click, these two have no
label. Twelve columns of codes, and pairs of columns, have effects on all three. Some codes are
frequent and most are rare.

Every run has the same layers: a table for each column of codes, a PLE with one expert per task and
one shared expert, and a tower for each task. Missing labels count in no loss: losses are means over
the labeled examples, or have weights of 0 in DeepCTR and in Keras by hand. Otherwise, each library
uses its own defaults.
"""

import importlib.util
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any
from unittest import mock

import numpy as np

BATCH, WIDTH, NUMBERS = 1024, 16, 8
STEPS = 293  # batches of an epoch: 300,032 rows
TEST_ROWS = 50_000
ROWS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 200_000)
COLUMNS = {f"code_{i}": rows for i, rows in enumerate(ROWS)}  # the rows of the tables
TASKS = ("click", "buy", "seconds")
EXPERTS, TOWER, LEVELS = (128, 64), 64, 2
FACTORS = 4  # hidden values of a code: an effect on each task, and one for pairs of columns

Arrays = dict[str, np.ndarray]


def make_data(seed: int, steps: int = STEPS) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Return columns and labels for training, and the same of later rows for the test."""
    rng = np.random.default_rng(seed)
    count = steps * BATCH + TEST_ROWS
    x: Arrays = {"numbers": rng.normal(size=(count, NUMBERS)).astype("float32")}
    effects = x["numbers"] @ rng.normal(0, 0.2, (NUMBERS, len(TASKS)))
    pairs = []
    for column, rows in COLUMNS.items():
        x[column] = (rows * rng.random(count) ** 3).astype("int32")
        factors = rng.normal(size=(rows, FACTORS))[x[column]]
        effects += 0.5 * factors[:, : len(TASKS)]
        pairs.append(factors[:, -1])
    joint = sum(a * b for a, b in zip(pairs[::2], pairs[1::2], strict=True))
    effects += np.outer(joint, [0.3, 0.2, 0.2])
    click = rng.random(count) < _sigmoid(effects[:, 0] - 1)
    buy = rng.random(count) < _sigmoid(0.5 * effects[:, 0] + effects[:, 1] - 2)
    seconds = effects[:, 2] + rng.normal(0, 1, count)
    seconds = (seconds - seconds[click].mean()) / seconds[click].std()
    y = {
        "click": click.astype("float32"),
        "buy": np.where(click, buy, np.nan).astype("float32"),
        "seconds": np.where(click, seconds, np.nan).astype("float32"),
    }
    train = steps * BATCH
    return first(x, train), first(y, train), last(x, train), last(y, train)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def first(arrays: Arrays, count: int) -> Arrays:
    return {name: array[:count] for name, array in arrays.items()}


def last(arrays: Arrays, start: int) -> Arrays:
    return {name: array[start:] for name, array in arrays.items()}


def scores(y: Arrays, predictions: dict[str, Any]) -> dict[str, float]:
    """Return the AUC of click and buy, and the root of the mean squared error of seconds."""
    from sklearn.metrics import roc_auc_score

    found = {}
    for task in TASKS:
        known = ~np.isnan(y[task])
        labels, predicted = y[task][known], np.asarray(predictions[task]).ravel()[known]
        if task == "seconds":
            found[task] = float(np.sqrt(np.mean((predicted - labels) ** 2)))
        else:
            found[task] = float(roc_auc_score(labels, predicted))
    return found


# Runs

FIRST_ROWS = 2 * BATCH  # training on these rows counts as the first step
Fit = Callable[[Arrays, Arrays], None]
Job = tuple[Fit, Callable[[Arrays], dict[str, Any]]]  # training on rows in order, and predictions


def ours() -> Job:
    """Return our PLE with SparseEmbedding and table_optimizer, as in the docs."""
    import ple_keras as pk

    return _of_ple_keras(pk.SparseEmbedding, pk.table_optimizer())


def shared_bottom() -> Job:
    """Return a shared bottom with SparseEmbedding and table_optimizer."""
    import ple_keras as pk

    return _of_ple_keras(pk.SparseEmbedding, pk.table_optimizer(), "bottom")


def hedged() -> Job:
    """Return hedged branches, whose own tables have a quarter of the width."""
    import ple_keras as pk

    return _of_ple_keras(pk.SparseEmbedding, pk.table_optimizer(), "hedged")


def ours_dense() -> Job:
    """Return our PLE with Keras's Embedding and Adam."""
    import keras

    return _of_ple_keras(keras.layers.Embedding, "adam")


def _of_ple_keras(embedding: Callable[..., Any], optimizer: Any, block: str = "ple") -> Job:
    import ple_keras as pk

    inputs = _inputs()
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[TOWER]),
            pk.BinaryHead("buy", tower=[TOWER]),
            pk.RegressionHead("seconds", tower=[TOWER]),
        ]
    )
    features: Any = _features(inputs, embedding)
    if block == "hedged":
        own = {task: _features(inputs, embedding, WIDTH // 4) for task in TASKS}
        features = pk.HedgedBlock(heads, list(EXPERTS))({**own, "shared": features})
    elif block == "bottom":
        features = pk.SharedBottomBlock(heads, list(EXPERTS))(features)
    else:
        features = pk.PLEBlock(LEVELS, heads, list(EXPERTS))(features)
    model = pk.MultiTaskModel(inputs, heads(features))
    model.compile(optimizer)
    return _of_keras(model)


def by_hand() -> Job:
    """Return a PLE of Keras's Dense layers, with our tables, Keras's losses and its AUC."""
    import keras

    import ple_keras as pk

    from ._step_models import loop_levels

    inputs = _inputs()
    features = _features(inputs, pk.SparseEmbedding)
    outputs = {}
    counts = dict.fromkeys([*TASKS, "shared"], 1)
    for task, stream in loop_levels(features, EXPERTS, LEVELS, counts).items():
        hidden = keras.layers.Dense(TOWER, "relu")(stream)
        activation = None if task == "seconds" else "sigmoid"
        outputs[task] = keras.layers.Dense(1, activation, name=task)(hidden)
    model = keras.Model(inputs, outputs)
    losses = {"click": "binary_crossentropy", "buy": "binary_crossentropy", "seconds": "mse"}
    metrics = {"click": ["auc"], "buy": ["auc"], "seconds": ["mae"]}
    model.compile(pk.table_optimizer(), losses, weighted_metrics=metrics)
    return _of_keras(model, weigh=True)


def deepctr() -> Job:
    """Return DeepCTR's PLE. By default, its tables have a penalty."""
    with mock.patch.object(Thread, "start"):  # its import queries PyPI for a newer version
        from deepctr.feature_column import DenseFeat, SparseFeat
        from deepctr.models import PLE

    columns = [SparseFeat(name, rows, WIDTH) for name, rows in COLUMNS.items()]
    model = PLE(
        [*columns, DenseFeat("numbers", NUMBERS)],
        num_levels=LEVELS,
        expert_dnn_hidden_units=EXPERTS,
        tower_dnn_hidden_units=(TOWER,),
        task_types=("binary", "binary", "regression"),
        task_names=TASKS,
    )
    losses = ["binary_crossentropy", "binary_crossentropy", "mse"]
    model.compile("adam", losses)
    return _of_keras(model, weigh=True, names=TASKS)


def _inputs() -> dict[str, Any]:
    import keras

    codes = {name: keras.Input((), dtype="int32", name=name) for name in COLUMNS}
    return {**codes, "numbers": keras.Input((NUMBERS,), name="numbers")}


def _features(inputs: dict[str, Any], embedding: Callable[..., Any], width: int = WIDTH) -> Any:
    import keras

    rows = [embedding(rows, width)(inputs[name]) for name, rows in COLUMNS.items()]
    return keras.layers.Concatenate()([*rows, inputs["numbers"]])


def _of_keras(model: Any, weigh: bool = False, names: tuple[str, ...] = ()) -> Job:
    """Return functions of a Keras model.

    Args:
        model: The compiled model.
        weigh: Whether missing labels have weights of 0. Our heads need none.
        names: The tasks, if labels and predictions are in a list.
    """

    def fit(x: Arrays, y: Arrays) -> None:
        given: Any
        sample_weight: Any
        given, sample_weight = _weighted(y) if weigh else (y, None)
        if names:
            given, sample_weight = (
                [part[name] for name in names] for part in (given, sample_weight)
            )
        model.fit(x, given, BATCH, sample_weight=sample_weight, shuffle=False, verbose=0, epochs=1)

    def predict(x: Arrays) -> dict[str, Any]:
        predictions = model.predict(x, batch_size=8192, verbose=0)
        return dict(zip(names, predictions)) if names else predictions

    return fit, predict


def _weighted(y: Arrays) -> tuple[Arrays, Arrays]:
    """Return labels without NaN, and weights that are 0 where a label is missing."""
    weights = {task: (~np.isnan(labels)).astype("float32") for task, labels in y.items()}
    return {task: np.nan_to_num(labels) for task, labels in y.items()}, weights


def torch_dense() -> Job:
    """Return plain PyTorch, with dense gradients and Adam."""
    import torch

    model = _torch_model(sparse=False)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return _train_torch(model, [torch.optim.Adam(model.parameters(), eps=1e-7)], loss)


def torch_sparse() -> Job:
    """Return plain PyTorch, with sparse gradients and Adagrad for the tables."""
    import torch

    model = _torch_model(sparse=True)
    rest = [p for name, p in model.named_parameters() if not name.startswith("tables")]
    tables = torch.optim.Adagrad(
        model.tables.parameters(), 0.1, initial_accumulator_value=1e-7, eps=0.0
    )
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return _train_torch(model, [torch.optim.Adam(rest, eps=1e-7), tables], loss)


def _torch_model(sparse: bool) -> Any:
    import torch
    from torch import nn

    def mlp(width: int, *units: int, last: bool = False) -> Any:
        layers: list[Any] = []
        for size in units:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        return nn.Sequential(*layers, *([nn.Linear(width, 1)] if last else []))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList(
                nn.Embedding(rows, WIDTH, sparse=sparse) for rows in COLUMNS.values()
            )
            for table in self.tables:
                nn.init.normal_(table.weight, std=0.01)
            streams = [*TASKS, "shared"]
            widths = [len(COLUMNS) * WIDTH + NUMBERS, EXPERTS[-1]]
            self.experts = nn.ModuleList(
                nn.ModuleDict({name: mlp(width, *EXPERTS) for name in streams}) for width in widths
            )
            self.gates = nn.ModuleList(
                nn.ModuleDict(
                    {
                        name: nn.Linear(width, 4 if name == "shared" else 2, bias=False)
                        for name in (TASKS if level else streams)
                    }
                )
                for level, width in enumerate(widths)
            )
            self.towers = nn.ModuleDict(
                {task: mlp(EXPERTS[-1], TOWER, last=True) for task in TASKS}
            )

        def forward(self, x: dict[str, Any]) -> Any:
            rows = [table(x[name]) for name, table in zip(COLUMNS, self.tables)]
            features = torch.cat([*rows, x["numbers"]], dim=1)
            streams = dict.fromkeys([*TASKS, "shared"], features)
            for experts, gates in zip(self.experts, self.gates):
                outputs = {name: experts[name](features) for name, features in streams.items()}
                mixed = {}
                for name, gate in gates.items():
                    read = outputs if name == "shared" else (name, "shared")
                    weights = gate(streams[name]).softmax(1).split(1, dim=1)
                    mixed[name] = sum(w * outputs[one] for w, one in zip(weights, read))
                streams = mixed
            return torch.cat([self.towers[task](streams[task]) for task in TASKS], dim=1)

    return Model()


def torch_rechub() -> Job:
    """Return torch-rechub's PLE. A step does the same as its MTLTrainer, without logging."""
    import torch
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import PLE

    def mlp(*units: int) -> dict[str, Any]:
        return {"dims": list(units), "activation": "relu", "dropout": 0.0}

    columns = [SparseFeature(name, rows, WIDTH) for name, rows in COLUMNS.items()]
    model = PLE(
        [*columns, DenseFeature("numbers", embed_dim=NUMBERS)],
        ["classification", "classification", "regression"],
        n_level=LEVELS,
        n_expert_specific=1,
        n_expert_shared=1,
        expert_params=mlp(*EXPERTS),
        tower_params_list=[mlp(TOWER)] * len(TASKS),
    )
    # The defaults of its MTLTrainer, but without the weight decay, which moves all rows.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    return _train_torch(model, [optimizer], torch.nn.functional.binary_cross_entropy)


def _train_torch(model: Any, optimizers: list[Any], binary_loss: Callable[..., Any]) -> Job:
    import torch

    losses = {"click": binary_loss, "buy": binary_loss, "seconds": torch.nn.functional.mse_loss}

    def tensors(arrays: Arrays, size: int) -> Iterator[dict[str, Any]]:
        count = len(next(iter(arrays.values())))
        for start in range(0, count, size):
            yield {
                name: torch.from_numpy(array[start : start + size])
                for name, array in arrays.items()
            }

    def fit(x: Arrays, y: Arrays) -> None:
        model.train()
        for inputs, labels in zip(tensors(x, BATCH), tensors(y, BATCH)):
            total = 0.0
            for prediction, (task, loss) in zip(model(inputs).unbind(1), losses.items()):
                known = ~labels[task].isnan()
                total = total + loss(prediction[known], labels[task][known])
            model.zero_grad()
            total.backward()
            for optimizer in optimizers:
                optimizer.step()

    def predict(x: Arrays) -> dict[str, Any]:
        model.eval()
        with torch.no_grad():
            predictions = torch.cat([model(inputs) for inputs in tensors(x, 8192)])
        return dict(zip(TASKS, predictions.numpy().T))

    return fit, predict


# By name: the function, its backend, and the module that it needs.
RUNS: dict[str, tuple[Callable[[], Job], str, str]] = {
    "PyTorch by hand, Adam": (torch_dense, "torch", "torch"),
    "PyTorch by hand, sparse tables": (torch_sparse, "torch", "torch"),
    "torch-rechub": (torch_rechub, "torch", "torch_rechub"),
    "DeepCTR": (deepctr, "tensorflow", "deepctr"),
    **{
        f"{name}, {title}": (job, backend, backend)
        for backend, title in (("torch", "PyTorch"), ("tensorflow", "TensorFlow"), ("jax", "JAX"))
        for name, job in (
            ("ours, Adam", ours_dense),
            ("Keras by hand, our tables", by_hand),
            ("ours", ours),
            ("ours, shared bottom", shared_bottom),
            ("ours, hedged", hedged),
        )
    },
}


def is_installed(name: str) -> bool:
    """Return whether the module that a run needs is installed."""
    return importlib.util.find_spec(RUNS[name][2]) is not None


def train_and_predict(
    name: str, x: Arrays, y: Arrays, test: Arrays, clock: Callable[[], float]
) -> tuple[float, float, dict[str, Any]]:
    """Return the clock's times until and after the first step, and the predictions."""
    start = clock()
    fit, predict = RUNS[name][0]()
    fit(first(x, FIRST_ROWS), first(y, FIRST_ROWS))
    began = clock()
    fit(last(x, FIRST_ROWS), last(y, FIRST_ROWS))
    return began - start, clock() - began, predict(test)
