"""The outputs, the loss and the metrics of one head."""

import keras
import numpy as np

import ple_keras as pk
from tests.helpers import QUICK, numpy_of
from tests.models import compiled


def loss_of_head(head, labels, predictions, sample_weight=None):
    """Return the loss of a head, as TaskHeads computes it, for predictions `(..., units)`."""
    heads, task = pk.TaskHeads([head]), head.task
    heads.build({task: (None, None, 3) if isinstance(head, pk.RankingHead) else (None, 3)})

    def loss(labels, predictions, weights):
        weights = None if weights is None else {task: weights}
        return heads.compute_losses({task: labels}, {task: predictions}, weights)[task]

    if keras.backend.backend() == "jax" and isinstance(predictions, np.ndarray):
        import jax

        loss = jax.jit(loss)  # running single operations takes long
    return float(numpy_of(loss(labels, predictions, sample_weight)))


def logs_of_head(head, labels, logits):
    """Return the logs of `evaluate` for logits `(batch, ..., width of the last layer)`."""
    heads, inputs = pk.TaskHeads([head]), keras.Input(logits.shape[1:])
    model = compiled(pk.MultiTaskModel(inputs, heads({head.task: inputs})), **QUICK)
    width = logits.shape[-1]
    head.set_weights([np.eye(width), np.zeros(width)])
    return model.evaluate(logits, labels, batch_size=2, verbose=0, return_dict=True)
