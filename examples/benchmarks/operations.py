"""Count the operations of a training step on PyTorch, its copies to the device, and its waits.

    KERAS_BACKEND=torch python -m examples.benchmarks.operations

The models are those of `small_job`: a shared bottom, a PLE and hedged branches, by hand in PyTorch,
in plain Keras and ours, without metrics. The counts are of one step in `fit`, after the batch is on
the device:

    operations   calls that PyTorch dispatches, without views of a tensor
    copies       tensors that are made from Python numbers or arrays: on a GPU, copies to the device
    waits        reads of a tensor's values: on a GPU, the host waits for the device

Each operation takes a few microseconds on the host, whatever the batch. On a GPU, this is most of
the time of a small step. The counts are the same on every machine, and need no GPU. By hand, the
counters of `torch.optim.Adam` are not counted, which are on the host.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ._step_pairs import JOBS, TASKS, by_hand, make_data, ours, plain, plain_labels
from ._tables import align_columns, make_parser

BATCH, STEPS = 512, 4  # the last step is counted
WAITS = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::unique_dim",
}


class Operations(TorchDispatchMode):
    """A mode that counts the operations within its `with`.

    Attributes:
        names: The number of calls of each operation, without views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        aliases = [result.alias_info for result in func._schema.returns]
        is_view = bool(aliases) and aliases[0] is not None and not aliases[0].is_write
        is_marker = func.namespace == "profiler"  # of optimizers
        name = func.name()
        is_copy = name == "aten::lift_fresh"
        if name == "aten::_to_copy":
            is_copy = kwargs.get("device", args[0].device) != args[0].device
        if is_copy:
            self.names["copy"] += 1
        elif not (is_view or is_marker or (name in WAITS and _is_in_optimizer())):
            self.names[name] += 1
        return func(*args, **kwargs)

    def counts(self) -> list[int]:
        """Return the numbers of operations, copies and waits."""
        waits = sum(self.names[name] for name in WAITS)
        return [sum(self.names.values()) - self.names["copy"], self.names["copy"], waits]


def _is_in_optimizer() -> bool:
    """Return whether an optimizer of PyTorch calls."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("torch.optim"):
            return True
        frame = frame.f_back
    return False


def count_step(model: Any, x: Any, y: Any) -> list[int]:
    """Return the counts of the last step of an epoch of `fit`."""
    model.make_train_function()
    step, found = model.train_function, []

    def counted_step(data: Any) -> Any:
        with Operations() as operations:
            logs = step(data)
        found.append(operations.counts())
        return logs

    model.train_function = counted_step
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    return found[-1]


def count_by_hand(job: str) -> list[int]:
    """Return the counts of a step by hand, with Adam as on a GPU."""
    x, y = make_data(BATCH, complete=True)
    codes = torch.from_numpy(np.stack([*x.values()]))
    labels = torch.from_numpy(np.stack([y[task] for task in TASKS], axis=1))
    with mock.patch.object(torch.optim, "Adam", partial(torch.optim.Adam, foreach=True)):
        step, *_ = by_hand(job)
    step(codes, labels)
    with Operations() as operations:
        step(codes, labels)
    return operations.counts()


def count(job: str) -> dict[str, list[int]]:
    """Return the counts of each model."""
    x, y = make_data(STEPS * BATCH)
    _, complete = make_data(STEPS * BATCH, complete=True)
    model = plain(job, has_metrics=False)
    found = {"by hand": count_by_hand(job)}
    found["plain"] = count_step(model, x, plain_labels(model, complete))
    for name, is_eager in (("ours", False), ("ours, eagerly", True)):
        found[name] = count_step(ours(job, has_metrics=False, run_eagerly=is_eager), x, y)
    return found


def format_table(counts: dict[str, list[int]]) -> str:
    """Return a row for each model."""
    table = [["", "operations", "copies", "waits", "of by hand"]]
    for name, numbers in counts.items():
        ratio = f"{numbers[0] / counts['by hand'][0]:.2f}"
        table.append([name, *map(str, numbers), ratio])
    return align_columns(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print a table per job."""
    parser = make_parser(__doc__)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=[*JOBS], help="default: all")
    args = parser.parse_args(arguments)
    for job in args.jobs:
        print(f"{job}\n{format_table(count(job))}", flush=True)


if __name__ == "__main__":
    main()
