"""Write a custom expert and a custom head, and train, save and load a PLE with them.

    pip install -e ".[jax]"
    KERAS_BACKEND=jax python examples/own_expert.py

Takes half a minute on two cores. The expert adds its input to its output (a residual connection),
and the head predicts numbers between 1 and 5. The labels are random: whether someone clicks, and a
rating.
"""

import keras
import numpy as np

import ple_keras as pk

FEATURES, ROWS = 32, 8_000


@keras.saving.register_keras_serializable("own_expert")  # needed to load and to clone models
class ResidualExpert(pk.ExpertBlock):
    """MLP that adds its input to its output. The last of `units` must be the input's width."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale

    def call(self, inputs, training=None):
        return inputs + self.scale * super().call(inputs, training=training)

    def get_config(self):
        """Return all arguments of `__init__`: a block creates its experts from this config."""
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("own_expert")
class RatingHead(pk.RegressionHead):
    """Head that predicts a number between 1 and 5, with a squared error."""

    def call(self, inputs, training=None):
        return 1 + 4 * keras.ops.sigmoid(self.logits(inputs))


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    click = (x[:, 0] + x[:, 1] * x[:, 2] > 0.5).astype("float32")
    rating = np.clip(3 + x[:, 0] - x[:, 3] + rng.normal(size=ROWS), 1, 5).round().astype("float32")
    return x, {"click": click, "rating": rating}


def print_epoch(epoch, logs):
    print(f"epoch {epoch + 1}: AUC {logs['val_click_auc']:.3f}, RMSE {logs['val_rating_rmse']:.3f}")


def main():
    keras.utils.set_random_seed(0)
    heads = pk.TaskHeads([pk.BinaryHead("click", tower=[16]), RatingHead("rating", tower=[16])])
    expert = ResidualExpert([64, FEATURES], scale=0.5, normalization="layer")
    ple = pk.PLEBlock(2, heads, expert, name="ple")
    inputs = keras.Input((FEATURES,))
    model = pk.MultiTaskModel(inputs, heads(ple(inputs)))
    model.compile("adam", trace=True)  # PyTorch traces code of users only on demand

    x, y = make_data()
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=print_epoch)]
    options = {"epochs": 3, "validation_split": 0.2, "callbacks": callbacks, "verbose": 0}
    model.fit(x, y, batch_size=256, **options)

    level = next(iter(ple))
    print(f"\n{level.expert_names[0]} of the first level: {level.get_expert('click/expert_0')}")

    model.save("own_expert.keras")
    loaded = keras.models.load_model("own_expert.keras")
    before, after = (each.predict(x[:1000], verbose=0) for each in (model, loaded))
    for task in before:
        difference = np.abs(after[task] - before[task]).max()
        print(f"{task}: first predictions {after[task][:3, 0].round(3)}")
        print(f"    largest difference after loading {difference}")


if __name__ == "__main__":
    main()
