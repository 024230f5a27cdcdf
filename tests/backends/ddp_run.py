"""Processes that train one model together: `python -m tests.backends.ddp_run FOLDER`, on PyTorch.

Two of them, then four. Each writes what it found to FOLDER/{ranks}-{rank}.json, and the first of
two saves its model there. With `ranks=1` the functions say what a process finds alone.
"""

import json
import multiprocessing
import sys
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import features, randomize
from tests.models import chain, compiled
from tests.processes import EXAMPLES

PATIENCE = timedelta(seconds=60)  # of a process that waits for another
ROWS, BATCH, STEPS, EPOCHS = 80, 16, 20, 2
VALID = (slice(0, 5), slice(5, 13))  # what each of two processes validates on
POLICIES = ("mixed_float16", "mixed_bfloat16")


def ple_of_rank(
    rank=0, loss_weighting="uncertainty", reduction=None, normalization=None, optimizer="adam"
):
    """Two tasks and two levels; every process starts with weights of its own."""
    heads = pk.TaskHeads(
        [
            pk.BinaryHead("click", tower=[3]),
            pk.RegressionHead("time", loss_weight=2.0, reduction=reduction),
        ],
        loss_weighting,
    )
    experts = pk.ExpertBlock([5, 4], normalization=normalization)
    ple = pk.PLEBlock(
        2, heads, experts, num_task_experts=2, enable_gate_weights_metrics=True, name="ple"
    )
    model = chain(ple, heads, width=6)
    randomize(model, seed=rank)
    kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    return compiled(model, kinds[optimizer](0.01))


def data(missing=0):
    """One task has no label in the first `missing` rows of each batch."""
    x = features(ROWS, 6)
    y = {"click": x[:, :1] > 0, "time": x[:, 1:2] * x[:, 2:3]}
    y["time"][np.arange(ROWS) % BATCH < missing] = np.nan
    return x, y


def part(arrays, rows):
    x, y = arrays
    return x[rows], {task: labels[rows] for task, labels in y.items()}


def batches(arrays, rank=0, ranks=1, steps=STEPS):
    """A process's part of each batch: the rows from one on, by its rank."""
    size = BATCH // ranks
    for step in range(steps):
        begin = step * BATCH % ROWS + rank * size
        yield part(arrays, slice(begin, begin + size))


def train(model, parts):
    """The loss of each step."""
    losses = []
    for one in parts:
        model.reset_metrics()  # Keras 3.12 goes on with the mean of the steps before
        losses.append(float(model.train_on_batch(*one, return_dict=True)["loss"]))
    return losses


def values(variables):
    return [np.ravel(keras.ops.convert_to_numpy(variable)).tolist() for variable in variables]


def alone(model):
    """In place of the example's `train_together`."""


def learn_labelled(together=alone, rank=0, ranks=1):
    model = ple_of_rank(rank)
    together(model)
    losses = train(model, batches(data(), rank, ranks))
    found = {"losses": losses, "weights": values(model.trainable_variables)}
    return {**found, "optimizer": values(model.optimizer.variables)}


def learn_missing(together=alone, rank=0, ranks=1, reduction=None, steps=1):
    """Where processes hold different numbers of labels."""
    weighting = "uncertainty" if reduction else None
    model = ple_of_rank(rank, weighting, reduction, optimizer="sgd")
    together(model)
    losses = train(model, batches(data(missing=6), rank, ranks, steps))
    return {"losses": losses, "weights": values(model.trainable_variables)}


def learn_exactly(together=alone, rank=0, ranks=1):
    return learn_missing(together, rank, ranks, "sum_over_batch_size", steps=5)


def learn_normalized(together=alone, rank=0, ranks=1):
    """With batch normalization in the experts."""
    model = ple_of_rank(rank, normalization="batch")
    together(model)
    train(model, batches(data(), rank, ranks, steps=3))
    moving = [v for v in model.non_trainable_variables if "moving" in v.path]
    return {"weights": values(model.trainable_variables), "moving": values(moving)}


def learn_mixed(together=alone, rank=0, ranks=1, policy="mixed_float16"):
    keras.config.set_dtype_policy(policy)
    model = ple_of_rank(rank)
    together(model)
    losses = train(model, batches(data(), rank, ranks, steps=3))
    keras.config.set_dtype_policy("float32")
    return {"losses": losses, "weights": values(model.trainable_variables)}


class Look(keras.callbacks.Callback):
    """One process looks into the model while the others wait for nothing."""

    def on_epoch_end(self, epoch, logs=None):
        pk.gate_report(self.model, *data())


def fit_part(model, rank=0, ranks=1, valid=None, callbacks=()):
    """The logs by epoch, and what the gates of this process have counted since the training."""
    rows = np.arange(ROWS).reshape(-1, ranks, BATCH // ranks)[:, rank].ravel()
    history = model.fit(
        *part(data(), rows),
        batch_size=BATCH // ranks,
        epochs=EPOCHS,
        shuffle=False,
        validation_data=valid and part(data(), valid),
        callbacks=[*callbacks, pk.GateWeightsLogger(), pk.LossWeightDecay({"click": 0.5})],
        verbose=0,
    ).history
    gates = [gate for level in model.get_layer("ple") for gate in level._gates().values()]
    counts = [gate.statistics()["count"] for gate in gates]
    logs = {key: [float(value) for value in by_epoch] for key, by_epoch in history.items()}
    return {"history": logs, "counts": counts}


def learn_with_callbacks(together, rank, ranks, folder, mean_logs):
    model = ple_of_rank(rank)
    together(model)
    only_here = [Look(), keras.callbacks.ModelCheckpoint(folder / "model.keras")]
    found = fit_part(
        model, rank, ranks, VALID[rank], [mean_logs, *(only_here if rank == 0 else [])]
    )
    predictions = model.predict(data()[0], verbose=0)
    return {**found, "predictions": {task: p.tolist() for task, p in predictions.items()}}


def learn_validated_once(together, rank, ranks):
    """Only one process has data to validate on."""
    model = ple_of_rank(rank)
    together(model)
    return fit_part(model, rank, ranks, VALID[0] if rank == 0 else None)


def run(rank, ranks, folder):
    """All that one of the processes does."""
    sys.path.insert(0, str(EXAMPLES / "distributed"))
    from torch import distributed
    from torch_ddp import MeanLogs, train_together

    distributed.init_process_group(
        "gloo", f"file://{folder}/meeting-{ranks}", PATIENCE, ranks, rank
    )
    who = (train_together, rank, ranks)
    found = {"labelled": learn_labelled(*who)}
    if ranks == 2:
        found |= {
            "missing": learn_missing(*who),
            "exact": learn_exactly(*who),
            "normalized": learn_normalized(*who),
            "fit": learn_with_callbacks(*who, folder, MeanLogs()),
            "validated_once": learn_validated_once(*who),
            **{policy: learn_mixed(*who, policy) for policy in POLICIES},
        }
    distributed.destroy_process_group()
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(found))


def main(folder):
    """Forks share the imports, which take longer than all the rest."""
    sys.modules["tensorflow"] = None  # Keras would import it in every process
    fork = multiprocessing.get_context("fork")
    for ranks in (2, 4):
        processes = [fork.Process(target=run, args=(r, ranks, folder)) for r in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
