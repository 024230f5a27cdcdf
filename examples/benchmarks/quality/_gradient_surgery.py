"""Training with projected gradients: PCGrad, on PyTorch.

Yu, Kumar, Gupta, Levine, Hausman, Finn, "Gradient Surgery for Multi-Task Learning", NeurIPS 2020.
"""

import random
from typing import Any

import keras

import ple_keras as pk

Gradients = list[Any]


class SurgeryModel(pk.MultiTaskModel):
    """A model whose steps project conflicting gradients of tasks onto each other."""

    def train_step(self, data: Any) -> dict[str, Any]:
        import torch

        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        heads = next(layer for layer in self.layers if isinstance(layer, pk.TaskHeads))
        y_pred = self(x, training=True)
        factors = heads.loss_weights()
        weights = [weight.value for weight in self.trainable_weights]
        gradients = [
            torch.autograd.grad(factors[task] * loss, weights, retain_graph=True, allow_unused=True)
            for task, loss in heads.compute_losses(y, y_pred).items()
        ]
        with torch.no_grad():
            self.optimizer.apply(combine(gradients), self.trainable_weights)
            self.compute_loss(x, y, y_pred)  # updates the metrics
        return self.get_metrics_result()


def combine(gradients: list[Gradients]) -> Gradients:
    """Return the sum of the tasks' gradients, each projected onto the normals of the others.

    A gradient is None for a weight that the task does not use. Only weights that both tasks use
    take part in the projection of their gradients.
    """
    projected = [list(own) for own in gradients]
    for i, own in enumerate(projected):
        for other in random.sample(gradients[:i] + gradients[i + 1 :], len(gradients) - 1):
            shared = [
                k for k, (a, b) in enumerate(zip(own, other)) if a is not None and b is not None
            ]
            product = sum((own[k] * other[k]).sum() for k in shared)
            if product < 0:
                scale = product / sum((other[k] ** 2).sum() for k in shared)
                for k in shared:
                    own[k] = own[k] - scale * other[k]
    return [sum(g for g in of_weight if g is not None) for of_weight in zip(*projected)]
