"""The job of `whole_job`: its data, the scores of predictions, and a run per library.

The data are simulated impressions: a click, and after a click a purchase ("buy") and the logarithm
of the time until the next action ("seconds"), standardized. Without a click, these two have no
label. Twelve columns of codes, and pairs of columns, have effects on all three. Some codes are
frequent and most are rare.

Every run has the same layers: a table for each column of codes, a PLE with one expert per task and
one shared expert, and a tower for each task. Missing labels count in no loss: losses are means over
the labeled examples, or have weights of 0 in DeepCTR. Otherwise, each library has its defaults.
The runs named "Adagrad" have the fastest documented options of these libraries. Ours read packed
columns, as TabularModel does, with the defaults of the library. But every code is known, not only
those of five rows, so that all tables have the same rows.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ._peers import deepctr_ple, rechub_ple
from ._step_pairs import torch_mlp, torch_ple

BATCH, WIDTH, NUMBERS = 1024, 16, 8
STEPS = 293  # batches of an epoch: 300,032 rows
HELD_OUT = 50_000  # rows for the choice of an epoch, and as many for the test
ROWS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 200_000)
COLUMNS = {f"code_{i}": rows for i, rows in enumerate(ROWS)}  # the rows of the tables
KINDS = {"click": "binary", "buy": "binary", "seconds": "regression"}
TASKS = tuple(KINDS)
EXPERTS, TOWER, LEVELS = (128, 64), 64, 2
FACTORS = 4  # hidden values of a code: an effect on each task, and one for pairs of columns

Arrays = dict[str, np.ndarray]


def make_data(seed: int, steps: int = STEPS) -> list[tuple[Arrays, Arrays]]:
    """Return columns and labels of training, validation and test rows, in order of time."""
    rng = np.random.default_rng(seed)
    count = steps * BATCH + 2 * HELD_OUT
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
    ends = (0, steps * BATCH, count - HELD_OUT, count)
    return [(slice_rows(x, *ends[i : i + 2]), slice_rows(y, *ends[i : i + 2])) for i in range(3)]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slice_rows(arrays: Arrays, start: int, end: int) -> Arrays:
    return {name: array[start:end] for name, array in arrays.items()}


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

ADAGRAD_RATE = 0.1  # as that of our SparseAdagrad
PREDICTED = 10_000  # rows of a batch of predictions, which divide those held out
ONE_ROW_CALLS = 200
FIRST_ROWS = 2 * BATCH  # training on these rows counts as the first step
# Training on rows in order, with validation rows for hedged branches, and predictions.
Fit = Callable[[Arrays, Arrays, tuple[Arrays, Arrays]], None]
Job = tuple[Fit, Callable[[Arrays], dict[str, Any]]]


def pack(data: list[tuple[Arrays, Arrays]]) -> tuple[Any, list[tuple[Arrays, Arrays]]]:
    """Return our columns, and the data as their inputs."""
    import pandas as pd

    import ple_keras as pk

    names = [f"number_{i}" for i in range(NUMBERS)]
    frames = []
    for x, _ in data:
        numbers = pd.DataFrame(x["numbers"], columns=names)
        frames.append(numbers.assign(**{name: x[name] for name in COLUMNS}))
    columns = pk.Columns(ids=COLUMNS, numbers=names).fit(frames[0], min_rows=1)
    return columns, [
        (columns.transform(frame, packed=True), y) for frame, (_, y) in zip(frames, data)
    ]


def ours(columns: Any, block: str = "ple", is_sparse: bool = True) -> Job:
    """Return our PLE, a shared bottom, or hedged branches whose own tables have the full width.

    Tables have `table_optimizer`, as in the docs, or Adam.
    """
    import ple_keras as pk

    heads = pk.TaskHeads(
        [
            (pk.BinaryHead if kind == "binary" else pk.RegressionHead)(task, tower=[TOWER])
            for task, kind in KINDS.items()
        ]
    )
    network = columns.network(WIDTH, packed=True)
    if block == "hedged":
        features = pk.HedgedBlock(heads, list(EXPERTS), features=network)(network.input)
    elif block == "bottom":
        features = pk.SharedBottomBlock(heads, list(EXPERTS))(network.output)
    else:
        features = pk.PLEBlock(LEVELS, heads, list(EXPERTS))(network.output)
    model = pk.MultiTaskModel(network.input, heads(features))
    model.compile(pk.table_optimizer() if is_sparse else "adam")

    def fit(x: Arrays, y: Arrays, valid: tuple[Arrays, Arrays]) -> None:
        of_mixtures = {"validation_data": valid} if block == "hedged" else {}
        model.fit(x, y, BATCH, shuffle=False, verbose=0, **of_mixtures)

    return fit, model.predict_on_batch


PLE = COLUMNS, WIDTH, NUMBERS, KINDS, (LEVELS, 1, 1), EXPERTS, TOWER  # of other libraries


def deepctr(is_sparse: bool) -> Job:
    """Return DeepCTR's PLE, in which missing labels have weights of 0.

    With Adagrad and without a penalty of the tables, a step updates only the rows that it reads.
    """
    import keras

    model = deepctr_ple(*PLE, **({"l2_reg_embedding": 0} if is_sparse else {}))
    optimizer = keras.optimizers.Adagrad(ADAGRAD_RATE) if is_sparse else "adam"
    model.compile(optimizer, ["binary_crossentropy", "binary_crossentropy", "mse"])

    def fit(x: Arrays, y: Arrays, valid: tuple[Arrays, Arrays]) -> None:
        labels = [np.nan_to_num(y[task]) for task in TASKS]
        weights = [(~np.isnan(y[task])).astype("float32") for task in TASKS]
        model.fit(x, labels, BATCH, sample_weight=weights, shuffle=False, verbose=0)

    return fit, lambda x: dict(zip(TASKS, model.predict_on_batch(x)))


def torch_by_hand(is_sparse: bool) -> Job:
    """Return plain PyTorch with Adam, or with sparse gradients and RowAdagrad for the tables."""
    import torch
    from torch import nn

    tables = nn.ModuleList(nn.Embedding(n, WIDTH, sparse=is_sparse) for n in COLUMNS.values())
    for table in tables:
        nn.init.normal_(table.weight, std=0.01)
    ple, mix = torch_ple(len(COLUMNS) * WIDTH + NUMBERS, EXPERTS, LEVELS, TASKS)
    towers = nn.ModuleDict({task: torch_mlp(EXPERTS[-1], [TOWER], 1) for task in TASKS})

    def forward(x: dict[str, Any]) -> Any:
        rows = [table(x[name]) for name, table in zip(COLUMNS, tables)]
        mixed = mix(torch.cat([*rows, x["numbers"]], dim=1))
        return torch.cat([towers[task](mixed[task]) for task in TASKS], dim=1)

    rest = [*ple.parameters(), *towers.parameters()]
    if is_sparse:
        optimizers: list[Any] = [RowAdagrad([*tables.parameters()])]
    else:
        optimizers, rest = [], [*tables.parameters(), *rest]
    optimizers.append(torch.optim.Adam(rest, eps=1e-7))
    return _torch_job(forward, optimizers, nn.functional.binary_cross_entropy_with_logits)


class RowAdagrad:
    """The steps of SparseAdagrad in plain PyTorch, for tables with sparse gradients."""

    def __init__(self, tables: list[Any]) -> None:
        self.tables, self.sums = tables, [table.detach() * 0 for table in tables]
        self.recent = [0.0] * len(tables)

    def zero_grad(self) -> None:
        for table in self.tables:
            table.grad = None

    def step(self) -> None:
        import torch

        for i, table in enumerate(self.tables):
            gradient = table.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
            squares = values**2
            count = values.count_nonzero()
            self.recent[i] = 0.99 * self.recent[i] + torch.stack([squares.sum(), count])
            self.sums[i][rows] += squares
            starts = 100 * self.recent[i][0] / self.recent[i][1]
            table.data[rows] -= 0.1 * values / (self.sums[i][rows] + starts).sqrt()


def torch_rechub(is_adam: bool) -> Job:
    """Return torch-rechub's PLE. A step does the same as its MTLTrainer, without logging."""
    import torch

    model = rechub_ple(*PLE)
    # The default of its MTLTrainer, but without the weight decay, which moves all rows.
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=0.001)
    if not is_adam:
        optimizer = torch.optim.Adagrad(model.parameters(), lr=ADAGRAD_RATE)
    fit, predict = _torch_job(model, [optimizer], torch.nn.functional.binary_cross_entropy)

    def fit_in_training(x: Arrays, y: Arrays, valid: tuple[Arrays, Arrays]) -> None:
        model.train()
        fit(x, y, valid)

    def predict_in_inference(x: Arrays) -> dict[str, Any]:
        model.eval()
        return predict(x)

    return fit_in_training, predict_in_inference


def _torch_job(model: Any, optimizers: list[Any], binary_loss: Callable[..., Any]) -> Job:
    import torch

    losses = {"click": binary_loss, "buy": binary_loss, "seconds": torch.nn.functional.mse_loss}

    def tensors(arrays: Arrays, size: int) -> Iterator[dict[str, Any]]:
        batches = {name: torch.from_numpy(array).split(size) for name, array in arrays.items()}
        return (dict(zip(batches, batch)) for batch in zip(*batches.values()))

    def fit(x: Arrays, y: Arrays, valid: tuple[Arrays, Arrays]) -> None:
        for inputs, labels in zip(tensors(x, BATCH), tensors(y, BATCH)):
            total = 0.0
            for prediction, (task, loss) in zip(model(inputs).unbind(1), losses.items()):
                known = ~labels[task].isnan()
                total = total + loss(prediction[known], labels[task][known])
            for optimizer in optimizers:
                optimizer.zero_grad()
            total.backward()
            for optimizer in optimizers:
                optimizer.step()

    def predict(x: Arrays) -> dict[str, Any]:
        with torch.no_grad():
            predictions = torch.cat([model(inputs) for inputs in tensors(x, PREDICTED)])
        return dict(zip(TASKS, predictions.numpy().T))

    return fit, predict


# By name: the function, its backend, and the module that it needs.
RUNS: dict[str, tuple[Callable[..., Job], str, str]] = {
    "PyTorch by hand, Adam": (partial(torch_by_hand, False), "torch", "torch"),
    "PyTorch by hand, sparse tables": (partial(torch_by_hand, True), "torch", "torch"),
    "torch-rechub": (partial(torch_rechub, True), "torch", "torch_rechub"),
    "torch-rechub, Adagrad": (partial(torch_rechub, False), "torch", "torch_rechub"),
    "DeepCTR": (partial(deepctr, False), "tensorflow", "deepctr"),
    "DeepCTR, Adagrad": (partial(deepctr, True), "tensorflow", "deepctr"),
    **{
        f"{name}, {title}": (job, backend, backend)
        for backend, title in (("torch", "PyTorch"), ("tensorflow", "TensorFlow"), ("jax", "JAX"))
        for name, job in (
            ("ours, Adam", partial(ours, is_sparse=False)),
            ("ours", ours),
            ("ours, shared bottom", partial(ours, block="bottom")),
            ("ours, hedged", partial(ours, block="hedged")),
        )
    },
}


def is_installed(name: str) -> bool:
    """Return whether the module that a run needs is installed."""
    return importlib.util.find_spec(RUNS[name][2]) is not None


class Trained(NamedTuple):
    """The times of a run, and its test scores.

    Attributes:
        first_step: The time until the first two batches were done.
        epoch: The time of the first epoch without these.
        total: The time until the end of the best epoch.
        one_row: The time of a prediction of one row.
        best: The epoch with the best validation scores, from 1.
        scores: Its scores on the test rows, by task.
    """

    first_step: float
    epoch: float
    total: float
    one_row: float
    best: int
    scores: dict[str, float]


def train(
    name: str, data: list[tuple[Arrays, Arrays]], epochs: int, clock: Callable[[], float]
) -> Trained:
    """Train in a run, which reads the rows in the same order in each epoch."""
    columns = []
    if name.startswith("ours"):
        of_data, data = pack(data)
        columns = [of_data]
    (x, y), *held_out = data
    start = clock()
    fit, predict = RUNS[name][0](*columns)
    fit(*(slice_rows(arrays, 0, FIRST_ROWS) for arrays in (x, y)), held_out[0])
    began = clock()
    seconds, found = [], []
    for epoch in range(epochs):
        start_of_epoch = clock()
        first = 0 if epoch else FIRST_ROWS
        fit(*(slice_rows(arrays, first, len(y["click"])) for arrays in (x, y)), held_out[0])
        seconds.append(clock() - start_of_epoch)
        found.append([scores(labels, _predict(predict, inputs)) for inputs, labels in held_out])
    # AUCs are better if they are higher, and errors if they are lower.
    sums = [valid["click"] + valid["buy"] - valid["seconds"] for valid, _ in found]
    best = int(np.argmax(sums))
    one = slice_rows(x, 0, 1)
    times = []
    for _ in range(ONE_ROW_CALLS):
        start_of_call = clock()
        predict(one)
        times.append(clock() - start_of_call)
    first_step, one_row = began - start, float(np.median(times))
    total = first_step + sum(seconds[: best + 1])
    return Trained(first_step, seconds[0], total, one_row, best + 1, found[best][1])


def _predict(predict: Callable[[Arrays], dict[str, Any]], x: Arrays) -> dict[str, Any]:
    batches = [predict(slice_rows(x, i, i + PREDICTED)) for i in range(0, HELD_OUT, PREDICTED)]
    return {task: np.concatenate([np.ravel(batch[task]) for batch in batches]) for task in TASKS}
