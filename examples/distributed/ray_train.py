"""Train a PLE with Ray's TorchTrainer and `model.fit`. A worker that dies is restarted.

    pip install -e ".[torch,ray]"
    python examples/distributed/ray_train.py    # two workers on this machine's CPUs
    python examples/distributed/ray_train.py --kill    # kills one of them

Takes a minute on two cores. The workers train as the processes of torch_ddp.py, which explains how
their values relate to one process. After each epoch, the first worker saves the model and the logs
as a checkpoint. If a worker dies, Ray restarts all workers from the last checkpoint. At the end,
the script prints the losses next to the losses of one process that trains on the same batches.

With GPUs, each worker gets one. On a Ray cluster, the workers run on all machines: set `address`
of `ray.init`, and choose a `storage_path` that all machines reach.

To reuse: `Report`, `train_worker`, and torch_ddp.py.
"""

import argparse
import json
import os
import re
import signal
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import torch

os.environ.setdefault("KERAS_TORCH_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
import keras
import numpy as np
import ray
import ray.train.torch
from torch import distributed
from torch_ddp import BATCH, ROWS, MeanLogs, decay, fit, make_model, use_ddp

import ple_keras as pk

EQUAL = re.compile("loss|gate/")  # logs that equal the logs of one process


class Report(keras.callbacks.Callback):
    """Callback that reports each epoch to Ray, with a checkpoint of the first worker.

    Pass it last and in every worker, since `report` waits for all workers.

    Args:
        history: The logs of the previous epochs.
    """

    def __init__(self, history):
        super().__init__()
        self.history = list(history)

    def on_epoch_end(self, epoch, logs=None):
        logs = {key: float(value) for key, value in logs.items()}
        self.history.append({"process": os.getpid(), **logs})
        if distributed.get_rank():
            ray.train.report(logs)
            return
        with tempfile.TemporaryDirectory() as folder:
            self.model.save(Path(folder, "model.keras"))
            Path(folder, "history.json").write_text(json.dumps(self.history))
            ray.train.report(logs, checkpoint=ray.train.Checkpoint.from_directory(folder))


def load(checkpoint: ray.train.Checkpoint) -> tuple[keras.Model, list]:
    """Return the model of a checkpoint and the logs of its epochs."""
    with checkpoint.as_directory() as folder:
        history = json.loads(Path(folder, "history.json").read_text())
        return keras.models.load_model(Path(folder, "model.keras")), history


class Kill(keras.callbacks.Callback):
    """Callback that kills its process in the middle of the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == ROWS // BATCH * 3 // 2:
            ray.train.get_all_reported_checkpoints()  # waits for the first epoch's checkpoint
            os.kill(os.getpid(), signal.SIGKILL)


def train_worker(config: dict) -> None:
    """Train in this worker. Ray has initialized its process group."""
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    checkpoint = ray.train.get_checkpoint()  # the last one, if Ray has restarted the workers
    model, history = load(checkpoint) if checkpoint else (make_model(), [])
    use_ddp(model)
    callbacks = [MeanLogs(), pk.GateWeightsLogger(), pk.LossWeightSchedule(decay), Report(history)]
    if config["kill"] and rank == 1 and not checkpoint:
        callbacks.append(Kill())
    fit(model, rank, ranks, callbacks, epoch=len(history))


def train(folder: str, kill: bool) -> tuple[keras.Model, list[dict]]:
    """Train in several workers. Return the model and the logs by epoch."""
    has_gpu = torch.cuda.is_available()
    names = ("KERAS_BACKEND", "KERAS_TORCH_DEVICE", "OMP_NUM_THREADS")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    scripts = str(Path(__file__).parent)  # the workers import torch_ddp.py
    environment = {"env_vars": variables, "working_dir": scripts}
    ray.init(runtime_env=environment, log_to_driver=False)
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"kill": kill},
        scaling_config=ray.train.ScalingConfig(
            num_workers=torch.cuda.device_count() or 2, use_gpu=has_gpu
        ),
        run_config=ray.train.RunConfig(
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=1),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    model, history = load(trainer.fit().checkpoint)
    ray.shutdown()
    return model, history


def print_comparison(logs: list[dict], alone: dict[str, list[float]]) -> None:
    """Print the logs next to the logs of one process on the same batches."""
    print("The first worker's process in each epoch:", *(each["process"] for each in logs))
    for key in ("loss", "click_loss", "time_loss", "gate/ple/0/click/max"):
        print(f"{key:20} {'workers':>12} {'one process':>12}")
        for epoch, (each, one) in enumerate(zip(logs, alone[key], strict=True), start=1):
            print(f"epoch {epoch:<14} {each[key]:12.6f} {one:12.6f}")
    equal = [key for key in alone if EQUAL.search(key)]
    pairs = [(each[key], one) for key in equal for each, one in zip(logs, alone[key])]
    print(f"largest difference, including loss weights: {np.max(np.abs(np.diff(pairs))):.0e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", default="ray_train.keras", help="saves the model here")
    parser.add_argument("--kill", action="store_true", help="kill a worker in the second epoch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, logs = train(folder, args.kill)
    model.save(args.file)
    print_comparison(
        logs, fit(make_model(), 0, 1, [pk.GateWeightsLogger(), pk.LossWeightSchedule(decay)])
    )


if __name__ == "__main__":
    main()
