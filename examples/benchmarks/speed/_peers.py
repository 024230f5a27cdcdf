"""PLEs of other libraries, with the same sizes, loss and optimizer.

    DeepCTR       Keras on TensorFlow: compiled and called like our models
    torch-rechub  PyTorch: a step does the same as its MTLTrainer for a batch, without logging

    pip install -e ".[bench]"

Both have their own input layers. Here, the D features are one dense feature.
"""

import importlib.util
from importlib.metadata import version
from threading import Thread
from typing import Any
from unittest import mock

import keras
from _cases import Case
from _models import TOWER, Variant, batch, keras_variant


def deepctr(case: Case, jit_compile: bool | str) -> Variant:
    """Return DeepCTR's PLE, a functional Keras model. Gates are linear, towers as wide as ours."""
    with mock.patch.object(Thread, "start"):  # its import queries PyPI for a newer version
        from deepctr.feature_column import DenseFeat
        from deepctr.models import PLE

    model = PLE(
        [DenseFeat("x", case.features)],
        shared_expert_num=case.shared_experts,
        specific_expert_num=case.task_experts,
        num_levels=case.levels,
        expert_dnn_hidden_units=case.experts,
        tower_dnn_hidden_units=(TOWER,),
        task_types=("binary",) * case.tasks,
        task_names=tuple(case.task_names),
    )
    note = f"DeepCTR {version('deepctr')}: an l2 loss of factor 0 for every expert and tower"
    return keras_variant(model, case, jit_compile, note)


def torch_rechub(case: Case, jit_compile: bool | str) -> Variant:
    """Return torch-rechub's PLE, a torch module. Its batch norms can't be disabled."""
    import torch
    from torch_rechub.basic.features import DenseFeature
    from torch_rechub.models.multi_task import PLE

    def mlp(*units: int) -> dict[str, Any]:
        return {"dims": list(units), "activation": "relu", "dropout": 0.0}

    x, labels = batch(case)
    device = keras.ops.convert_to_tensor(x).device
    model = PLE(
        [DenseFeature("x", embed_dim=case.features)],
        ["classification"] * case.tasks,
        n_level=case.levels,
        n_expert_specific=case.task_experts,
        n_expert_shared=case.shared_experts,
        expert_params=mlp(*case.experts),
        tower_params_list=[mlp(TOWER)] * case.tasks,
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, eps=1e-7)  # Keras's default
    cross_entropy = torch.nn.BCELoss()

    def train() -> list[float]:
        model.train()
        predictions = model({"x": torch.from_numpy(x).to(device)})  # (B, K)
        y = torch.from_numpy(labels).to(device)[:, 0]
        losses = [cross_entropy(prediction, y) for prediction in predictions.unbind(1)]
        model.zero_grad()
        sum(losses).backward()
        optimizer.step()
        return [loss.item() for loss in losses]

    def predict() -> Any:
        model.eval()
        with torch.no_grad():
            return model({"x": torch.from_numpy(x).to(device)}).cpu().numpy()

    return Variant(
        train,
        predict,
        parameters=sum(weight.numel() for weight in model.parameters()),
        note=f"torch-rechub {version('torch-rechub')}: a batch norm after each Dense layer and in "
        "each gate, gates with biases, torch.optim.Adam, no Keras",
    )


# By peer: its builder, its module and its backend.
PEERS = {
    "DeepCTR": (deepctr, "deepctr", "tensorflow"),
    "torch-rechub": (torch_rechub, "torch_rechub", "torch"),
}


def available_peers(case: Case) -> list[str]:
    """Return the peers that support this backend and case. Print those that are skipped."""
    found = []
    for name, (_, module, backend) in PEERS.items():
        if backend != keras.backend.backend():
            continue
        if importlib.util.find_spec(module) is None:
            print(f'{name} is skipped, it is not installed: pip install -e ".[bench]"', flush=True)
        elif case.tasks == 1 and module == "deepctr":
            print(f"{name} is skipped, it refuses a single task", flush=True)
        else:
            found.append(name)
    return found
