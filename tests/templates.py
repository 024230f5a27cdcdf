"""Expert templates of every kind that users can pass, each created by a function of its seed."""

import keras

import ple_keras as pk


@keras.saving.register_keras_serializable(package="tests")
class CopiedExpert(pk.ExpertBlock):
    """Expert that is copied instead of stacked, because it is a subclass."""


@keras.saving.register_keras_serializable(package="tests")
class ResidualExpert(pk.ExpertBlock):
    """Expert that overrides call."""

    def call(self, inputs, training=None):
        mean = keras.ops.mean(inputs, axis=-1, keepdims=True)
        return super().call(inputs, training=training) + mean


@keras.saving.register_keras_serializable(package="tests")
class ScaledExpert(pk.ExpertBlock):
    """Expert that overrides call and has an additional argument."""

    def __init__(self, units, scale, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale

    def call(self, inputs, training=None):
        return self.scale * super().call(inputs, training=training)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="tests")
class WideningExpert(pk.ExpertBlock):
    """Expert whose call changes the width, unlike its inherited `compute_output_shape`."""

    def call(self, inputs, training=None):
        outputs = super().call(inputs, training=training)
        return keras.ops.concatenate([inputs, outputs], axis=-1)


@keras.saving.register_keras_serializable(package="tests")
class OwnExpert(keras.layers.Layer):
    """Custom layer without build and `compute_output_shape`, with sub-layers from __init__."""

    def __init__(self, units, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.dense = keras.layers.Dense(units, kernel_initializer=self.kernel_initializer)

    def call(self, inputs):
        return keras.ops.tanh(self.dense(inputs))

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "units": self.units, "kernel_initializer": initializer}


@keras.saving.register_keras_serializable(package="tests")
class RawConfigExpert(OwnExpert):
    """Expert whose config contains an initializer object."""

    def get_config(self):
        return {**super().get_config(), "kernel_initializer": self.kernel_initializer}


def sequential(initializer):
    return keras.Sequential(
        [
            keras.layers.Dense(4, "relu", kernel_initializer=initializer),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4, kernel_initializer=initializer),
        ]
    )


def built_sequential(initializer):
    model = sequential(initializer)
    model.build((None, 4))
    return model


def functional(initializer):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, "relu", kernel_initializer=initializer)(inputs)
    outputs = keras.layers.Dense(4, kernel_initializer=initializer)(hidden) + 2.0 * inputs
    return keras.Model(inputs, outputs)


TEMPLATES = {
    "expert_block": lambda init: pk.ExpertBlock([4, 4], kernel_initializer=init),
    "expert_block_batchnorm": lambda init: pk.ExpertBlock(
        [4, 4], normalization="batch", dropout=0.2, kernel_initializer=init
    ),
    "subclass": lambda init: ResidualExpert([4, 4], kernel_initializer=init),
    "subclass_with_argument": lambda init: ScaledExpert([4], scale=3.0, kernel_initializer=init),
    "dense": lambda init: keras.layers.Dense(4, "relu", kernel_initializer=init),
    "sequential": sequential,
    "built_sequential": built_sequential,
    "functional": functional,
    "own_layer": lambda init: OwnExpert(4, kernel_initializer=init),
    "raw_config": lambda init: RawConfigExpert(4, kernel_initializer=init),
    "wrapper": lambda init: keras.layers.SpectralNormalization(
        keras.layers.Dense(4, kernel_initializer=init)
    ),
    "sequential_block": lambda init: pk.SequentialBlock(
        [OwnExpert(4, kernel_initializer=init), pk.ExpertBlock(4, kernel_initializer=init)]
    ),
}
