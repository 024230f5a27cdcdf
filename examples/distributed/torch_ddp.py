"""Train a PLE in several processes with PyTorch's DistributedDataParallel and `model.fit`.

    pip install -e ".[torch]"
    python examples/distributed/torch_ddp.py    # starts two processes on this machine's CPUs
    torchrun --nproc-per-node 4 examples/distributed/torch_ddp.py    # with four processes

Takes half a minute on two cores. Each process has the whole model and its own share of each batch.
In each step, the gradients are averaged over the processes, so the weights stay equal. Of an
embedding table, this is the gradient of all rows. At the end, the script prints the losses next to
the losses of one process that trains on the same batches.

On a cluster, run torchrun on every machine, with one process per GPU. The script then selects NCCL
for communication, instead of gloo:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 ...

To reuse: `use_ddp`, the sampler, the process group, and saving in one process. The values of
several processes relate to one process as follows:

- Losses are the same if every example has a label. With missing labels, a task's loss is the mean
  over the labeled examples of each process, averaged over the processes. With
  reduction="sum_over_batch_size" on the head, it equals the loss of one process.
- Loss weights are equal in all processes, if they are learned or every process has the callback.
- GateWeightsLogger, if used in every process, logs the gates over all processes.
  `gate_statistics`, `gate_weights` and `gate_report` cover the examples of their own process.
- All other values in `logs` are per process before MeanLogs, which adds the states of the metrics.
  All processes must stop early at the same time: otherwise, some wait forever.
- Batch normalization uses the examples of its own process, even for its moving statistics. The file
  contains the statistics of the process that saves.
- Gate dropout, and dropout with a seed, draw equal values in all processes, from the seeds of the
  first process.
"""

import argparse
import os
import subprocess
import sys

os.environ["KERAS_BACKEND"] = "torch"

import torch

os.environ.setdefault("KERAS_TORCH_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
import keras
import numpy as np
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, StackDataset

import ple_keras as pk

USERS, ROWS, FEATURES, BATCH, EPOCHS = 5000, 2048, 16, 256, 3


def decay(task: str, epoch: int) -> float:
    """Return the multiplier of the loss weights of all tasks."""
    return 0.9**epoch


def make_model() -> keras.Model:
    """Return a compiled model. It needs no changes for several processes."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", tower=[16]), pk.RegressionHead("time", tower=[16])],
        loss_weighting="uncertainty",
    )
    ple = pk.PLEBlock(2, heads, [32, 16], enable_gate_weights_metrics=True, name="ple")
    inputs = {
        "user": keras.Input((), dtype="int32", name="user"),
        "numbers": keras.Input((FEATURES,), name="numbers"),
    }
    user = pk.SparseEmbedding(USERS, 8, name="user_table")(inputs["user"])
    features = keras.layers.Concatenate()([user, inputs["numbers"]])
    model = pk.MultiTaskModel(inputs, heads(ple(features)))
    model.compile(pk.table_optimizer("adam"))
    return model


def make_data() -> StackDataset:
    """Return random pairs of features and labels by task."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    user = rng.integers(0, USERS, ROWS).astype("int32")
    click, time = x[:, :1] > x[:, 1:2] * x[:, 2:3], np.abs(x[:, :2]).sum(axis=1, keepdims=True)
    labels = StackDataset(click=click.astype("float32"), time=time)
    return StackDataset(StackDataset(user=user, numbers=x), labels)


def use_ddp(model: keras.Model) -> None:
    """Make `fit` train with DistributedDataParallel, from the weights of the first process.

    Before, compile and build the model, and freeze layers. Every trainable weight must affect the
    loss. `fit` must run the same number of batches in every process. The model itself is not
    wrapped: `evaluate`, `predict` and `save` do not wait for other processes.
    """
    parallel = DistributedDataParallel(model)

    def train_step(data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        predictions = parallel(x, training=True)
        loss = model.compute_loss(x, y, predictions, sample_weight, training=True)
        model.zero_grad()
        model.optimizer.scale_loss(loss).backward()  # averages the gradients
        weights = model.trainable_weights
        with torch.no_grad():
            model.optimizer.apply([weight.value.grad for weight in weights], weights)
        loss_metric = next(metric for metric in model.metrics if metric.name == "loss")
        loss_metric.update_state(loss, sample_weight=len(keras.tree.flatten(x)[0]))
        return model.compute_metrics(x, y, predictions, sample_weight)

    model.train_step = train_step


class MeanLogs(keras.callbacks.Callback):
    """Callback that computes the logs over the rows of all processes, as in one process.

    It adds the states of the metrics, which are sums. It must precede callbacks that use the logs.
    If a process validates, all must.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self.training = None

    def on_test_begin(self, logs=None):
        self.training = self.results()  # before `fit` resets the metrics

    def on_epoch_end(self, epoch, logs=None):
        results = self.results()
        if self.training:
            results = {f"val_{key}": value for key, value in results.items()} | self.training
        logs.update(results)

    def results(self):
        for metric in self.model.metrics:
            for variable in metric.variables:
                distributed.all_reduce(variable.value)
        return {key: float(value) for key, value in self.model.get_metrics_result().items()}


def fit(
    model: keras.Model, rank: int, ranks: int, callbacks: list, epoch: int = 0
) -> dict[str, list[float]]:
    """Train on one of `ranks` shares of the data, from an epoch on. Return the logs by epoch."""
    data = make_data()
    share = DistributedSampler(data, ranks, rank)  # equal sizes; `set_epoch` reshuffles
    batches = DataLoader(data, BATCH // ranks, sampler=share, drop_last=True)
    set_epoch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: share.set_epoch(epoch)
    )
    kwargs = {"initial_epoch": epoch, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    return model.fit(batches, callbacks=[set_epoch, *callbacks], **kwargs).history


def main(file: str) -> None:
    """Train in this process. The first process saves the model."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if has_gpu else "gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    model = make_model()
    use_ddp(model)
    callbacks = [MeanLogs(), pk.GateWeightsLogger(), pk.LossWeightSchedule(decay)]
    logs = fit(model, rank, ranks, callbacks)
    distributed.destroy_process_group()
    if rank == 0:
        model.save(file)  # or with ModelCheckpoint only in the callbacks of this process
        print_comparison(logs, fit(make_model(), 0, 1, callbacks[1:]), ranks)
        print(f"Only process 0 saved {file}.")


def print_comparison(
    logs: dict[str, list[float]], alone: dict[str, list[float]], ranks: int
) -> None:
    """Print the logs next to the logs of one process on the same batches."""
    device = "GPUs over NCCL" if torch.cuda.is_available() else "CPUs over gloo; on GPUs, NCCL"
    print(f"{ranks} processes ({device}), and one process alone:")
    for key in ("loss", "click_loss", "time_loss", "gate/ple/0/click/max"):
        print(f"{key:20} {f'{ranks} processes':>12} {'one':>12}")
        for epoch, pair in enumerate(zip(logs[key], alone[key]), start=1):
            print("{:20} {:12.6f} {:12.6f}".format(f"epoch {epoch}", *pair))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", default="torch_ddp.keras", help="saves the model here")
    args = parser.parse_args()
    if "RANK" in os.environ:  # started by torchrun
        main(args.file)
    else:
        count = str(torch.cuda.device_count() or 2)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node", count, *sys.argv]
        sys.exit(subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode)
