"""PLE trained by several processes: PyTorch's DistributedDataParallel under `model.fit`.

    python examples/distributed/torch_ddp.py    # starts two processes on this machine's CPUs
    torchrun --nproc-per-node 4 examples/distributed/torch_ddp.py    # or so, with four

Every process has the whole model and its own share of each batch; each step's gradients are
averaged over the processes, and so their weights stay equal. At the end the losses stand beside
those of one process that trains alone on the same batches.

On a cluster torchrun starts it on every machine, one process a GPU; the processes then talk over
NCCL in place of gloo, which this script decides by itself:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 ...

To copy from here: `train_together`, the sampler, the process group, and who saves. What is that of
all processes, and what each one's own:

- Losses are those of one process, if every example has a label. Where labels are missing, a task's
  loss is the mean over the labelled examples of each process, and then over processes; with
  reduction="sum_over_batch_size" on the head it is that of one process again.
- Loss weights, moved by a callback in every process or learned, are the same in all.
- GateWeightsLogger, in every process, has the gates of all. `gate_statistics`, `gate_weights` and
  `gate_report` look at what their own process has run.
- All else in `logs` is each process's own, until MeanLogs averages it (an AUC, too, is then a mean
  of AUCs). What stops by a figure must stop everywhere at once, or the others wait for it.
- Batch normalization goes by the examples of its own process, and so do the statistics that it
  keeps: the file has those of the process that saves.
- Gate dropout, and dropout with a seed, draw alike in all processes, from the seeds of the first.
"""

import os
import subprocess
import sys

import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_TORCH_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")

import keras
import numpy as np
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, StackDataset

import ple_keras as pk

ROWS, FEATURES, BATCH, EPOCHS = 2048, 16, 256, 3


def make_model() -> keras.Model:
    """Nothing in it knows of several processes."""
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads(
        [pk.BinaryHead("click", tower=[16]), pk.RegressionHead("time", tower=[16])],
        loss_weighting="uncertainty",
    )
    ple = pk.PLEBlock(2, heads, [32, 16], enable_gate_weights_metrics=True, name="ple")
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, heads(ple(inputs)))
    model.compile("adam", **heads.compile_kwargs())
    return model


def make_data() -> StackDataset:
    """Pairs of features and labels by task, made up."""
    x = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")
    click, time = x[:, :1] > x[:, 1:2] * x[:, 2:3], np.abs(x[:, :2]).sum(axis=1, keepdims=True)
    return StackDataset(x, StackDataset(click=click.astype("float32"), time=time))


def train_together(model: keras.Model) -> None:
    """Let `fit` train through DistributedDataParallel, from the weights of the first process.

    The model must be built, what is frozen must be so already, and every trained weight must have
    a part in the loss. `fit` has to see as many batches in every process. The model remains what
    it is: `evaluate`, `predict` and `save` wait for no other process.
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
        shown = next(metric for metric in model.metrics if metric.name == "loss")
        shown.update_state(loss, sample_weight=len(keras.tree.flatten(x)[0]))
        return model.compute_metrics(x, y, predictions, sample_weight)

    model.train_step = train_step


class MeanLogs(keras.callbacks.Callback):
    """Gives all processes the mean of their logs; stands before callbacks that decide by them."""

    def on_epoch_end(self, epoch, logs=None):
        keys = sorted(logs)
        means = keras.ops.convert_to_tensor([float(logs[key]) for key in keys])
        distributed.all_reduce(means)
        logs.update(zip(keys, (means / distributed.get_world_size()).tolist()))


def fit(model: keras.Model, rank: int, ranks: int, callbacks: list) -> dict[str, list[float]]:
    """Train on one of `ranks` shares of the data; the logs by epoch."""
    data = make_data()
    share = DistributedSampler(data, ranks, rank)  # all of one size, drawn anew by set_epoch
    batches = DataLoader(data, BATCH // ranks, sampler=share, drop_last=True)
    draw = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: share.set_epoch(epoch))
    kwargs = {"epochs": EPOCHS, "shuffle": False, "verbose": 0}
    return model.fit(batches, callbacks=[draw, *callbacks], **kwargs).history


def main(file: str = "torch_ddp.keras") -> None:
    """What each process does."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if has_gpu else "gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    model = make_model()
    train_together(model)
    callbacks = [MeanLogs(), pk.GateWeightsLogger(), pk.LossWeightDecay(0.9)]
    logs = fit(model, rank, ranks, callbacks)
    distributed.destroy_process_group()
    if rank == 0:
        model.save(file)  # or by ModelCheckpoint, in the callbacks of this process alone
        show(logs, fit(make_model(), 0, 1, callbacks[1:]), ranks)
        print(f"Process 0, and no other, saved {file}.")


def show(logs: dict[str, list[float]], alone: dict[str, list[float]], ranks: int) -> None:
    """Print what came of it beside what one process makes of the same batches."""
    device = "GPUs over NCCL" if torch.cuda.is_available() else "CPUs over gloo; on GPUs, NCCL"
    print(f"{ranks} processes ({device}), and one process alone:")
    for key in ("loss", "click_loss", "time_loss", "gate/ple/0/click/max"):
        print(f"{key:20} {f'{ranks} processes':>12} {'one':>12}")
        for epoch, pair in enumerate(zip(logs[key], alone[key]), start=1):
            print("{:20} {:12.6f} {:12.6f}".format(f"epoch {epoch}", *pair))


if __name__ == "__main__":
    if keras.backend.backend() != "torch":
        sys.exit("DistributedDataParallel is PyTorch's: run this with KERAS_BACKEND=torch.")
    if "RANK" in os.environ:  # started by torchrun
        main(*sys.argv[1:])
    else:
        count = str(torch.cuda.device_count() or 2)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node", count, *sys.argv]
        sys.exit(subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode)
