"""PLEs of other libraries, with the layers of ours. They have their own input layers."""

import importlib.util
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Any
from unittest import mock

# By peer: its module and its backend.
PEERS = {"DeepCTR": ("deepctr", "tensorflow"), "torch-rechub": ("torch_rechub", "torch")}


def available_peers(backend: str) -> list[str]:
    """Return the peers of a backend that are installed."""
    return [
        name
        for name, (module, of_peer) in PEERS.items()
        if of_peer == backend and importlib.util.find_spec(module)
    ]


def deepctr_ple(
    tables: Mapping[str, int],
    width: int,
    numbers: int,
    tasks: Mapping[str, str],
    sizes: tuple[int, int, int],
    experts: Sequence[int],
    tower: int,
    **options: Any,
) -> Any:
    """Return DeepCTR's PLE, a functional Keras model. By default, its tables have a penalty.

    Args:
        tables: The number of rows of each table.
        width: The width of the tables.
        numbers: The width of the input "numbers".
        tasks: "binary" or "regression" by task.
        sizes: The numbers of levels, of experts per task and of shared experts.
        experts: The units of an expert.
        tower: The units of a tower's hidden layer.
        **options: Its other arguments.
    """
    with mock.patch.object(Thread, "start"):  # its import queries PyPI for a newer version
        from deepctr.feature_column import DenseFeat, SparseFeat
        from deepctr.models import PLE

    columns = [SparseFeat(name, rows, width) for name, rows in tables.items()]
    levels, task_experts, shared_experts = sizes
    return PLE(
        [*columns, DenseFeat("numbers", numbers)],
        shared_expert_num=shared_experts,
        specific_expert_num=task_experts,
        num_levels=levels,
        expert_dnn_hidden_units=tuple(experts),
        tower_dnn_hidden_units=(tower,),
        task_types=tuple(tasks.values()),
        task_names=tuple(tasks),
        **options,
    )


def rechub_ple(
    tables: Mapping[str, int],
    width: int,
    numbers: int,
    tasks: Mapping[str, str],
    sizes: tuple[int, int, int],
    experts: Sequence[int],
    tower: int,
) -> Any:
    """Return torch-rechub's PLE, a torch module. Its batch norms can't be disabled."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import PLE

    def mlp(*units: int) -> dict[str, Any]:
        return {"dims": list(units), "activation": "relu", "dropout": 0.0}

    columns = [SparseFeature(name, rows, width) for name, rows in tables.items()]
    levels, task_experts, shared_experts = sizes
    return PLE(
        [*columns, DenseFeature("numbers", embed_dim=numbers)],
        ["classification" if kind == "binary" else kind for kind in tasks.values()],
        n_level=levels,
        n_expert_specific=task_experts,
        n_expert_shared=shared_experts,
        expert_params=mlp(*experts),
        tower_params_list=[mlp(tower)] * len(tasks),
    )
