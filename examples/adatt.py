"""Write a block of the family in one file: AdaTT, whose gates mix the experts of all tasks.

    pip install -e ".[jax]"
    KERAS_BACKEND=jax python examples/adatt.py

Takes half a minute on two cores. In each level, the gate of a task mixes all experts, and adds a
learned linear combination of the experts of the task itself:

    x_k' = sum_e softmax(W_k x_k)_e E_e + sum_i v_{k,i} E_{k,i}

A task with one expert has v = 1. The block is a CGCBlock with other connections, so that its gates
have statistics and reports, and its weights can be saved and transferred. The connections are not
part of the public interface, and can change in any version. The labels are random.

Li et al., "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations",
KDD 2023, arXiv:2304.04959.
"""

import keras
import numpy as np

import ple_keras as pk
from ple_keras.layers.connections import Connections

FEATURES, ROWS = 32, 20_000


@keras.saving.register_keras_serializable("adatt")
class AdaTTBlock(pk.CGCBlock):
    """One level of AdaTT. Arguments, inputs and outputs are those of CGCBlock."""

    def _make_connections(self, task_experts):
        connections = super()._make_connections(task_experts)
        gates = {gate: [*connections.experts] for gate in connections.gates}
        return Connections(connections.tasks, connections.experts, gates, self.isolate_task_experts)

    def build(self, inputs_shape=None, gate_context_shape=None):
        super().build(inputs_shape, gate_context_shape)
        self._own_weights = {}  # v
        for stream in self._connections.gates:
            count = len(self._connections.experts_of(stream))
            if count > 1:
                self._own_weights[stream] = self.add_weight(
                    (count,),
                    keras.initializers.RandomUniform(-(count**-0.5), count**-0.5),
                    name=f"own_weights_{stream}",
                )

    def _mix(self, weights, experts):
        outputs = super()._mix(weights, experts)
        for stream in outputs:
            own = self._connections.experts_of(stream)
            v = self._own_weights.get(stream, [1.0])
            for i, expert in enumerate(own):
                outputs[stream] += v[i] * experts[expert]
        return outputs

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for stream, v in self._own_weights.items():
            store[f"own_weights_{stream}"] = keras.ops.convert_to_numpy(v)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        for stream, v in self._own_weights.items():
            v.assign(store[f"own_weights_{stream}"])


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    click = (x[:, 0] + x[:, 1] * x[:, 2] > 0.5).astype("float32")
    return x, {"click": click, "seconds": x[:, 0] + x[:, 3] ** 2}


def main():
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads([pk.BinaryHead("click", tower=[16]), pk.RegressionHead("seconds")])
    options = {"num_task_experts": 2, "num_shared_experts": 0, "add_shared_gate": False}
    levels = [AdaTTBlock(heads, units, **options) for units in ([64], [32])]
    inputs = keras.Input((FEATURES,))
    model = pk.MultiTaskModel(inputs, heads(pk.SequentialBlock(levels, name="adatt")(inputs)))
    model.compile("adam", trace=True)  # PyTorch traces code of users only on demand

    x, y = make_data()
    model.fit(x, y, batch_size=256, epochs=3, validation_split=0.2, verbose=2)
    print(f"\n{pk.gate_report(model, x[:1000])}")

    model.save("adatt.keras")
    loaded = keras.models.load_model("adatt.keras")
    before, after = (each.predict(x[:1000], verbose=0) for each in (model, loaded))
    largest = max(np.abs(after[task] - before[task]).max() for task in before)
    print(f"\nlargest difference after loading: {largest}")


if __name__ == "__main__":
    main()
