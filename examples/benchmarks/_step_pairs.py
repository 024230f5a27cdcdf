"""Models of `small_job`: ours, the same layers in plain Keras, and by hand in PyTorch.

The job: 7 columns of codes with tables of 7 to 2,000 rows of 16 (keras.layers.Embedding), two
binary tasks and a regression, and Adam. JOBS are three networks on these features:

    small    a shared bottom [64, 32]
    PLE      two levels with experts [128, 64], one per task and one shared, and linear gates
    hedged   a shared bottom [64, 32] and a network [64, 32] per task, each with its own outputs,
             which are trained with their own losses; the prediction of a task is their mixture

By hand and in plain Keras, no label is missing, and hedged branches are trained without masks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

WIDTH, UNITS, EXPERTS, LEVELS = 16, [64, 32], [128, 64], 2
ROWS = (2000, 1000, 500, 100, 50, 24, 7)
COLUMNS = {f"code_{i}": rows for i, rows in enumerate(ROWS)}  # the rows of the tables
BINARY, MISSING = ("click", "buy"), 0.2
TASKS = (*BINARY, "rating")
JOBS = ("small", "PLE", "hedged")

Arrays = dict[str, np.ndarray]
HandStep = Callable[[Any, Any], Any]


def make_data(rows: int, complete: bool = False) -> tuple[Arrays, Arrays]:
    """Return random columns, and random labels, of which some are missing for two tasks.

    Args:
        rows: The number of rows.
        complete: Whether missing labels are 0.
    """
    rng = np.random.default_rng(0)
    x = {name: rng.integers(0, size, rows).astype("int32") for name, size in COLUMNS.items()}
    y = {"rating": rng.normal(size=rows).astype("float32")}
    for task in BINARY:
        y[task] = (rng.random(rows) < 0.3).astype("float32")
        y[task][rng.random(rows) < MISSING] = 0.0 if complete else np.nan
    return x, y


def ours(job: str, has_metrics: bool = True, **compile_kwargs: Any) -> Any:
    """Return a compiled MultiTaskModel with the default metrics, including two AUCs."""
    import ple_keras as pk

    inputs, features = _read_columns()
    options = {} if has_metrics else {"metrics": []}
    heads = pk.TaskHeads(
        [*(pk.BinaryHead(t, **options) for t in BINARY), pk.RegressionHead("rating", **options)]
    )
    block = {
        "small": lambda: pk.SharedBottomBlock(heads, UNITS),
        "PLE": lambda: pk.PLEBlock(LEVELS, heads, EXPERTS),
        "hedged": lambda: pk.HedgedBlock(heads, UNITS),
    }[job]()
    model = pk.MultiTaskModel(inputs, heads(block(features)))
    model.compile("adam", hedge=False, **compile_kwargs)
    return model


def plain(job: str, has_metrics: bool = True) -> Any:
    """Return a compiled model of Dense layers, with Keras's losses, and its AUC for two tasks."""
    import keras
    from keras import layers

    from ._step_models import SHARED, dense_chain, loop_levels

    inputs, features = _read_columns()
    if job == "PLE":
        counts = dict.fromkeys([*TASKS, SHARED], 1)
        branches = {t: [x] for t, x in loop_levels(features, EXPERTS, LEVELS, counts).items()}
    else:
        bottom = dense_chain(features, UNITS, "bottom")
        branches = {task: [bottom] for task in TASKS}
    if job == "hedged":
        branches = {t: [*x, dense_chain(features, UNITS, t)] for t, x in branches.items()}
    outputs, losses = {}, {}
    for task, streams in branches.items():
        activation = "sigmoid" if task in BINARY else None
        names = [task] if len(streams) == 1 else [f"{task}_shared", f"{task}_own"]
        for name, stream in zip(names, streams, strict=True):
            outputs[name] = layers.Dense(1, activation, name=name)(stream)
            losses[name] = "binary_crossentropy" if task in BINARY else "mse"
        if len(names) > 1:
            outputs[task] = layers.Average(name=task)([outputs[name] for name in names])
    model = keras.Model(inputs, outputs)
    metrics = {task: [keras.metrics.AUC()] for task in BINARY} if has_metrics else None
    model.compile("adam", losses, metrics=metrics)
    return model


def plain_labels(model: Any, y: Arrays) -> Arrays:
    """Return the labels of each output of a plain model."""
    return {name: y[name.split("_")[0]] for name in model.output_names}


def _read_columns() -> tuple[dict[str, Any], Any]:
    """Return the inputs, and the concatenated rows of the tables."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = {column: keras.Input((), dtype="int32", name=column) for column in COLUMNS}
    rows = [layers.Embedding(size, WIDTH)(inputs[column]) for column, size in COLUMNS.items()]
    return inputs, layers.Concatenate()(rows)


def by_hand(job: str) -> tuple[HandStep, Callable[[Arrays], Any], int]:
    """Return a step and a prediction in PyTorch without Keras, and the number of parameters.

    The arguments of the step, which has no metrics, are the codes, `(columns, B)`, and the labels
    in the order of TASKS, `(B, 3)`.
    """
    import torch
    from torch import nn

    torch.manual_seed(0)
    tables = nn.ModuleList(nn.Embedding(rows, WIDTH) for rows in ROWS)
    network, forward = {"small": _small, "PLE": _ple, "hedged": _hedged}[job](WIDTH * len(ROWS))
    parameters = [*tables.parameters(), *network.parameters()]
    optimizer = torch.optim.Adam(parameters)

    def losses_of(outputs: Any, labels: Any) -> Any:
        """Return the sum of the losses of all tasks."""
        loss = nn.functional.mse_loss(outputs[:, -1], labels[:, -1])
        for task in range(len(BINARY)):
            logits, y = outputs[:, task], labels[:, task]
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logits, y)
        return loss

    def branches_of(codes: Any) -> list[Any]:
        rows = [table(column) for table, column in zip(tables, codes, strict=True)]
        return forward(torch.cat(rows, dim=-1))

    def predict(x: Arrays) -> Any:
        with torch.no_grad():
            branches = branches_of([torch.from_numpy(codes) for codes in x.values()])
            outputs = sum(branches) / len(branches) if len(branches) > 1 else branches[0]
            return outputs[:, : len(BINARY)].sigmoid().numpy(), outputs[:, len(BINARY) :].numpy()

    def step(codes: Any, labels: Any) -> Any:
        branches = branches_of(codes)
        loss = losses_of(branches[0], labels)
        for branch in branches[1:]:
            loss = loss + losses_of(branch, labels)
        value = loss
        if len(branches) > 1:  # the loss of the prediction, for the logs
            with torch.no_grad():
                value = losses_of(sum(branches) / len(branches), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value.detach()

    return step, predict, sum(weight.numel() for weight in parameters)


def torch_mlp(width: int, units: Sequence[int], outputs: int = 0) -> Any:
    from torch import nn

    steps: list[Any] = []
    for size in units:
        steps += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*steps, *([nn.Linear(width, outputs)] if outputs else []))


def _small(width: int) -> tuple[Any, Callable[[Any], list[Any]]]:
    network = torch_mlp(width, UNITS, len(TASKS))
    return network, lambda features: [network(features)]


def _hedged(width: int) -> tuple[Any, Callable[[Any], list[Any]]]:
    import torch
    from torch import nn

    shared = torch_mlp(width, UNITS, len(TASKS))
    own = nn.ModuleList(torch_mlp(width, UNITS, 1) for _ in TASKS)

    def forward(features: Any) -> list[Any]:
        return [shared(features), torch.cat([network(features) for network in own], dim=1)]

    return nn.ModuleList([shared, own]), forward


def torch_ple(
    width: int, units: Sequence[int], levels: int, tasks: Sequence[str]
) -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    """Return the experts and gates of a PLE, and a function of features to each task's output.

    Each level has an expert per task and a shared one.
    """
    from torch import nn

    streams = [*tasks, "shared"]
    experts, gates = nn.ModuleList(), nn.ModuleList()
    for level in range(levels):
        experts.append(nn.ModuleDict({name: torch_mlp(width, units) for name in streams}))
        mixed = streams if level < levels - 1 else tasks
        counts = {name: len(streams) if name == "shared" else 2 for name in mixed}
        of_level = {name: nn.Linear(width, count, bias=False) for name, count in counts.items()}
        gates.append(nn.ModuleDict(of_level))
        width = units[-1]

    def forward(features: Any) -> dict[str, Any]:
        inputs = dict.fromkeys(streams, features)
        for of_level, of_gates in zip(experts, gates, strict=True):
            found = {name: expert(inputs[name]) for name, expert in of_level.items()}
            mixtures = {}
            for name, gate in of_gates.items():
                read = streams if name == "shared" else (name, "shared")
                weights = gate(inputs[name]).softmax(1).split(1, dim=1)
                terms = [w * found[one] for w, one in zip(weights, read, strict=True)]
                mixtures[name] = sum(terms[1:], terms[0])
            inputs = mixtures
        return inputs

    return nn.ModuleList([experts, gates]), forward


def _ple(width: int) -> tuple[Any, Callable[[Any], list[Any]]]:
    import torch
    from torch import nn

    ple, mix = torch_ple(width, EXPERTS, LEVELS, TASKS)
    outputs = nn.ModuleDict({task: nn.Linear(EXPERTS[-1], 1) for task in TASKS})

    def forward(features: Any) -> list[Any]:
        mixed = mix(features)
        return [torch.cat([outputs[task](mixed[task]) for task in TASKS], dim=1)]

    return nn.ModuleList([ple, outputs]), forward
