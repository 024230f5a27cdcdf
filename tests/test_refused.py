"""Bad input is refused where it is given, with a message that says what was received."""

import operator
import re

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features

NAN, INF = float("nan"), float("inf")


def check_refused(call, error, message):
    """`call` raises exactly this error, and its message matches and says what was received."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    text = str(caught.value)
    assert caught.type is error, text
    assert re.search(message, text, re.DOTALL), text
    assert re.search(r"Received: [\w\[\]'.]+=", text), text


def table(rows):
    """Parameters from `{id: row}`."""
    return [pytest.param(*row, id=name) for name, row in rows.items()]


class Unlike:
    """An object that is nothing the library takes."""

    def __repr__(self):
        return "<Unlike>"


# Tasks ------------------------------------------------------------------------------------------

RULE = "ASCII letters, digits, '_' and '-', starting with a letter or digit, and not 'shared'"

BAD_NAMES = {
    "space": ("a b", ValueError, r"='a b'"),
    "leading_space": (" a", ValueError, r"=' a'"),
    "trailing_newline": ("a\n", ValueError, r"='a\\n'"),
    "unicode_letter": ("käufe", ValueError, r"='käufe'"),
    "unicode_digit": ("\u0663", ValueError, "='\u0663'"),
    "leading_underscore": ("_a", ValueError, r"='_a'"),
    "leading_dash": ("-a", ValueError, r"='-a'"),
    "slash": ("a/b", ValueError, r"='a/b'"),
    "dot": ("a.b", ValueError, r"='a\.b'"),
    "colon": ("a:b", ValueError, r"='a:b'"),
    "shared": ("shared", ValueError, r"='shared'"),
    "empty": ("", ValueError, r"=''"),
    "number": (3, TypeError, r"=3"),
    "none": (None, TypeError, r"=None"),
    "bytes": (b"a", TypeError, r"=b'a'"),
}

BLOCKS = {
    "cgc": lambda outputs, **kw: pk.CGCBlock(outputs, 3, **kw),
    "ple": lambda outputs, **kw: pk.PLEBlock(2, outputs, 3, **kw),
    "mmoe": lambda outputs, **kw: pk.MMoEBlock(outputs, 3, 2, **kw),
    "shared_bottom": lambda outputs, **kw: pk.SharedBottomBlock(outputs, 3, **kw),
}
HEADS = {
    "head": pk.Head,
    "binary": pk.BinaryHead,
    "regression": pk.RegressionHead,
    "multiclass": lambda task, **kw: pk.MulticlassHead(task, **{"num_classes": 2, **kw}),
}

every_block = pytest.mark.parametrize("block", list(BLOCKS.values()), ids=list(BLOCKS))
every_head = pytest.mark.parametrize("head", list(HEADS.values()), ids=list(HEADS))


@pytest.mark.parametrize(("name", "error", "received"), table(BAD_NAMES))
@every_block
def test_a_task_name_outside_the_rule_is_refused_by_every_block(block, name, error, received):
    check_refused(lambda: block(["fine", name]), error, f"{RULE}. Received: outputs{received}")


@pytest.mark.parametrize(("name", "error", "received"), table(BAD_NAMES))
@every_head
def test_a_task_name_outside_the_rule_is_refused_by_every_head(head, name, error, received):
    check_refused(lambda: head(name), error, f"{RULE}. Received: task{received}")


def head_of(task):
    return pk.BinaryHead(task)


BAD_OUTPUTS = {
    "no_tasks": (list, ValueError, r"at least one task\. Received: outputs=\[\]"),
    "no_heads": (dict, ValueError, r"at least one task\. Received: outputs=\{\}"),
    "repeated": (
        lambda: ["a", "b", "a"],
        ValueError,
        r"once, but \['a'\] are repeated\. Received: outputs=\['a', 'b', 'a'\]",
    ),
    "repeated_heads": (
        lambda: [head_of("a"), head_of("a")],
        ValueError,
        r"once, but \['a'\] are repeated\. Received: outputs=\[<BinaryHead",
    ),
    "one_string": (lambda: "ab", TypeError, r"sequence of task names.*Received: outputs='ab'"),
    "bytes": (lambda: b"ab", TypeError, r"Received: outputs=b'ab'"),
    "set": (lambda: {"a"}, TypeError, r"sequence of task names.*Received: outputs=\{'a'\}"),
    "generator": (lambda: (x for x in "ab"), TypeError, r"Received: outputs=<generator"),
    "number": (lambda: 2, TypeError, r"sequence of task names.*Received: outputs=2"),
    "none": (lambda: None, TypeError, r"Received: outputs=None"),
    "one_head": (lambda: head_of("a"), TypeError, r"Received: outputs=<BinaryHead"),
    "wrong_head": (
        lambda: {"b": head_of("a")},
        ValueError,
        r"each task to its own head, but 'b' has <BinaryHead.*Received: outputs=\{'b': <Binary",
    ),
    "no_head": (
        lambda: {"a": 3},
        ValueError,
        r"each task to its own head, but 'a' has 3\. Received: outputs=\{'a': 3\}",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), table(BAD_OUTPUTS))
@every_block
def test_outputs_that_name_no_tasks_are_refused_by_every_block(block, make, error, message):
    outputs = make()
    check_refused(lambda: block(outputs), error, message)


# Numbers ----------------------------------------------------------------------------------------

# what: (how it is given, the argument's name)
TEMPLATE_ARGUMENTS = {
    "expert_block": lambda value: pk.CGCBlock(["a"], value),
    "expert_block_of_ple": lambda value: pk.PLEBlock(2, ["a"], value),
    "expert_block_of_mmoe": lambda value: pk.MMoEBlock(["a"], value, 2),
    "gate_block": lambda value: pk.Gate(2, gate_block=value),
    "gate_block_of_cgc": lambda value: pk.CGCBlock(["a"], 3, gate_block=value),
    "gate_block_of_ple": lambda value: pk.PLEBlock(2, ["a"], 3, gate_block=value),
    "bottom_block": lambda value: pk.SharedBottomBlock(["a"], value),
    "tower": lambda value: pk.BinaryHead("a", tower=value),
}

BAD_UNITS = {
    "empty": ([], ValueError, r"{0} must hold at least one width\. Received: {0}=\[\]"),
    "zero": (0, ValueError, r"{0} must be at least 1\. Received: {0}=0"),
    "negative": ([4, -1], ValueError, r"{0}\[1\] must be at least 1\. Received: {0}\[1\]=-1"),
    "zero_inside": ((4, 0), ValueError, r"{0}\[1\] must be at least 1\. Received: {0}\[1\]=0"),
    "float_inside": ([4.0], TypeError, r"{0}\[0\] must be an integer\. Received: {0}\[0\]=4\.0"),
    "bool_inside": ([True], TypeError, r"{0}\[0\] must be an integer\. Received: {0}\[0\]=True"),
    "float": (4.0, TypeError, r"{0} must be an int.*Received: {0}=4\.0"),
    "bool": (True, TypeError, r"{0} must be an int.*Received: {0}=True"),
    "string": ("4", TypeError, r"{0} must be an int.*Received: {0}='4'"),
    "set": ({4}, TypeError, r"{0} must be an int.*Received: {0}=\{{4\}}"),
    "object": (Unlike(), TypeError, r"{0} must be an int.*Received: {0}=<Unlike>"),
}


@pytest.mark.parametrize(("value", "error", "message"), table(BAD_UNITS))
@pytest.mark.parametrize("name", ["units", *TEMPLATE_ARGUMENTS])
def test_units_that_are_no_widths_are_refused(name, value, error, message):
    make = {"units": pk.ExpertBlock, **TEMPLATE_ARGUMENTS}[name]
    check_refused(lambda: make(value), error, message.format(name.split("_of_")[0]))


COUNT_ARGUMENTS = {
    "num_layers": (lambda value: pk.PLEBlock(value, ["a"], 3), 1),
    "num_task_experts": (lambda value: pk.CGCBlock(["a"], 3, num_task_experts=value), 0),
    "num_task_experts_of_ple": (lambda value: pk.PLEBlock(2, ["a"], 3, value), 0),
    "num_shared_experts": (lambda value: pk.CGCBlock(["a"], 3, num_shared_experts=value), 0),
    "num_shared_experts_of_ple": (lambda value: pk.PLEBlock(2, ["a"], 3, 1, value), 0),
    "num_experts": (lambda value: pk.Gate(value), 1),
    "num_experts_of_mmoe": (lambda value: pk.MMoEBlock(["a"], 3, value), 1),
    "units": (lambda value: pk.Head("a", units=value), 1),
    "units_of_regression": (lambda value: pk.RegressionHead("a", units=value), 1),
    "num_classes": (lambda value: pk.MulticlassHead("a", num_classes=value), 2),
}


@pytest.mark.parametrize(
    ("make", "name", "minimum"),
    [
        pytest.param(make, name.split("_of_")[0], minimum, id=name)
        for name, (make, minimum) in COUNT_ARGUMENTS.items()
    ],
)
def test_counts_that_are_none_are_refused(make, name, minimum):
    for value in (minimum - 1, -3):
        check_refused(
            lambda value=value: make(value),
            ValueError,
            rf"{name} must be at least {minimum}\. Received: {name}={value}$",
        )
    for value in (True, False, 2.0, "2", None, [2], NAN):
        check_refused(
            lambda value=value: make(value),
            TypeError,
            rf"{name} must be an integer\. Received: {name}={re.escape(repr(value))}$",
        )


BAD_COUNTS_BY_TASK = {
    "missing": ({"a": 1}, ValueError, r"missing: \['b'\], not known: \[\].*Received: .*\{'a'\}"),
    "extra": ({"a": 1, "b": 1, "c": 1}, ValueError, r"missing: \[\], not known: \['c'\]"),
    "shared": ({"a": 1, "b": 1, "shared": 1}, ValueError, r"not known: \['shared'\]"),
    "negative": ({"a": 1, "b": -1}, ValueError, r"Received: num_task_experts\['b'\]=-1"),
    "bool": ({"a": 1, "b": True}, TypeError, r"Received: num_task_experts\['b'\]=True"),
    "float": ({"a": 1.0, "b": 1}, TypeError, r"Received: num_task_experts\['a'\]=1\.0"),
}


@pytest.mark.parametrize(("counts", "error", "message"), table(BAD_COUNTS_BY_TASK))
@pytest.mark.parametrize("block", [BLOCKS["cgc"], BLOCKS["ple"]], ids=["cgc", "ple"])
def test_counts_by_task_must_be_one_count_for_each_task(block, counts, error, message):
    check_refused(lambda: block(["a", "b"], num_task_experts=counts), error, message)


@pytest.mark.parametrize("counts", [0, {"a": 1, "b": 0}], ids=["for_all", "for_one"])
@pytest.mark.parametrize("block", [BLOCKS["cgc"], BLOCKS["ple"]], ids=["cgc", "ple"])
def test_a_gate_without_experts_is_refused(block, counts):
    gate = "a" if counts == 0 else "b"
    check_refused(
        lambda: block(["a", "b"], num_task_experts=counts, num_shared_experts=0),
        ValueError,
        rf"that of '{gate}' sees none\. Received: num_task_experts=\{{.*num_shared_experts=0$",
    )


TEMPERATURES = {
    "softmax_temperature": lambda value: pk.Gate(2, softmax_temperature=value),
    **{
        f"gate_softmax_temperature_of_{name}": lambda value, name=name: BLOCKS[name](
            ["a"], gate_softmax_temperature=value
        )
        for name in ("cgc", "ple", "mmoe")
    },
}

BAD_TEMPERATURES = {
    "zero": (0, ValueError, r"must be above 0\. Received: {}=0$"),
    "negative": (-0.5, ValueError, r"must be above 0\. Received: {}=-0\.5$"),
    "nan": (NAN, ValueError, r"must be finite\. Received: {}=nan$"),
    "inf": (INF, ValueError, r"must be finite\. Received: {}=inf$"),
    "string": ("1", TypeError, r"must be a number\. Received: {}='1'$"),
    "bool": (True, TypeError, r"must be a number\. Received: {}=True$"),
    "none": (None, TypeError, r"must be a number\. Received: {}=None$"),
}


@pytest.mark.parametrize(("value", "error", "message"), table(BAD_TEMPERATURES))
@pytest.mark.parametrize("name", list(TEMPERATURES))
def test_a_temperature_that_is_no_positive_number_is_refused(name, value, error, message):
    argument = name.split("_of_")[0]
    check_refused(lambda: TEMPERATURES[name](value), error, message.format(argument))


GATES = {
    "gate": lambda **kw: pk.Gate(2, **kw),
    **{name: lambda name=name, **kw: BLOCKS[name](["a"], **kw) for name in ("cgc", "ple", "mmoe")},
}

BAD_REMEDIES = {
    "dropout_one": ("gate_dropout", 1, ValueError, r"must lie in \[0, 1\)"),
    "dropout_negative": ("gate_dropout", -0.1, ValueError, r"must lie in \[0, 1\)"),
    "dropout_nan": ("gate_dropout", NAN, ValueError, "must be finite"),
    "dropout_none": ("gate_dropout", None, TypeError, "must be a number"),
    "dropout_bool": ("gate_dropout", True, TypeError, "must be a number"),
    "balance_negative": ("expert_balance_regularizer", -1, ValueError, "must be at least 0"),
    "balance_inf": ("expert_balance_regularizer", INF, ValueError, "must be finite"),
    "balance_nan": ("expert_balance_regularizer", NAN, ValueError, "must be finite"),
    "balance_name": ("expert_balance_regularizer", "l2", TypeError, "must be a number"),
}


@pytest.mark.parametrize(("argument", "value", "error", "message"), table(BAD_REMEDIES))
@pytest.mark.parametrize("gate", list(GATES.values()), ids=list(GATES))
def test_gate_dropout_and_balance_out_of_range_are_refused(gate, argument, value, error, message):
    check_refused(
        lambda: gate(**{argument: value}), error, rf"{argument} {message}\. Received: {argument}="
    )


# Other arguments --------------------------------------------------------------------------------

BAD_ARGUMENTS = {
    "dropout_one": (
        lambda: pk.ExpertBlock(3, dropout=1.0),
        ValueError,
        r"dropout must lie in \[0, 1\)\. Received: dropout=1\.0$",
    ),
    "dropout_negative": (
        lambda: pk.ExpertBlock(3, dropout=-0.1),
        ValueError,
        r"dropout must lie in \[0, 1\)\. Received: dropout=-0\.1$",
    ),
    "dropout_nan": (
        lambda: pk.ExpertBlock(3, dropout=NAN),
        ValueError,
        r"dropout must be finite\. Received: dropout=nan$",
    ),
    "dropout_string": (
        lambda: pk.ExpertBlock(3, dropout="0.1"),
        TypeError,
        r"dropout must be a number\. Received: dropout='0\.1'$",
    ),
    "normalization_unknown": (
        lambda: pk.ExpertBlock(3, normalization="instance"),
        ValueError,
        r"one of \['batch', 'layer'\]\. Received: normalization='instance'$",
    ),
    "normalization_layer": (
        lambda: pk.ExpertBlock(3, normalization=keras.layers.LayerNormalization()),
        ValueError,
        r"one of \['batch', 'layer'\]\. Received: normalization=<LayerNormalization",
    ),
    "normalization_bool": (
        lambda: pk.ExpertBlock(3, normalization=True),
        ValueError,
        r"Received: normalization=True$",
    ),
    "use_bias_string": (
        lambda: pk.ExpertBlock(3, use_bias="no"),
        TypeError,
        r"use_bias must be True or False\. Received: use_bias='no'$",
    ),
    "activation_unknown": (
        lambda: pk.ExpertBlock(3, activation="rellu"),
        ValueError,
        r"activation must be .*Received: activation='rellu'$",
    ),
    "activation_layer": (
        lambda: pk.ExpertBlock(3, activation=keras.layers.PReLU()),
        TypeError,
        r"activation must be a name or a function.*Received: activation=<PReLU",
    ),
    "activation_halves": (
        lambda: pk.ExpertBlock(4, activation="glu"),
        ValueError,
        r"activation must keep the width.*Received: activation='glu'$",
    ),
    "activation_number": (
        lambda: pk.ExpertBlock(3, activation=3),
        ValueError,
        r"activation must be .*Received: activation=3$",
    ),
    "head_activation_unknown": (
        lambda: pk.RegressionHead("a", activation="rellu"),
        ValueError,
        r"activation must be .*Received: activation='rellu'$",
    ),
    "head_activation_layer": (
        lambda: pk.Head("a", activation=keras.layers.PReLU()),
        TypeError,
        r"activation must be a name or a function.*Received: activation=<PReLU",
    ),
    **{
        f"{argument}_unknown": (
            lambda argument=argument: pk.ExpertBlock(3, **{argument: "nope"}),
            ValueError,
            rf"{argument} must be .*Received: {argument}='nope'$",
        )
        for argument in (
            "kernel_initializer",
            "bias_initializer",
            "kernel_regularizer",
            "bias_regularizer",
        )
    },
    **{
        f"gate_{argument}_unknown": (
            lambda argument=argument: pk.Gate(3, **{argument: "nope"}),
            ValueError,
            rf"{argument} must be .*Received: {argument}='nope'$",
        )
        for argument in ("kernel_initializer", "kernel_regularizer")
    },
    "track_weights_number": (
        lambda: pk.Gate(3, track_weights=1),
        TypeError,
        r"track_weights must be True or False\. Received: track_weights=1$",
    ),
    "add_shared_gate_string": (
        lambda: pk.CGCBlock(["a"], 3, add_shared_gate="yes"),
        TypeError,
        r"add_shared_gate must be True or False\. Received: add_shared_gate='yes'$",
    ),
    **{
        f"enable_gate_weights_metrics_of_{name}": (
            lambda name=name: BLOCKS[name](["a"], enable_gate_weights_metrics=None),
            TypeError,
            r"enable_gate_weights_metrics must be True or False\. Received: enable_gate_w.*=None$",
        )
        for name in ("cgc", "ple", "mmoe")
    },
    "too_few_level_experts": (
        lambda: pk.PLEBlock(3, ["a"], [keras.layers.Dense(3), keras.layers.Dense(3)]),
        ValueError,
        r"one layer a level, 3 in all\. Received: expert_block=\[<Dense",
    ),
    "too_many_level_experts": (
        lambda: pk.PLEBlock(1, ["a"], (pk.ExpertBlock(3), pk.ExpertBlock(3))),
        ValueError,
        r"one layer a level, 1 in all\. Received: expert_block=\(<ExpertBlock",
    ),
    "loss_unknown": (
        lambda: pk.BinaryHead("a", loss="nope"),
        ValueError,
        r"loss must be the name of a Keras loss.*Received: loss='nope'$",
    ),
    "loss_number": (
        lambda: pk.BinaryHead("a", loss=3),
        ValueError,
        r"loss must be the name of a Keras loss.*Received: loss=3$",
    ),
    "loss_dict": (
        lambda: pk.BinaryHead("a", loss={"a": "mse"}),
        TypeError,
        r"loss must be .*Received: loss=\{'a': 'mse'\}$",
    ),
    "loss_class": (
        lambda: pk.BinaryHead("a", loss=keras.losses.BinaryCrossentropy),
        TypeError,
        r"loss must be .*Received: loss=<class",
    ),
    "metric_unknown": (
        lambda: pk.BinaryHead("a", metrics=["accuracy", "nope"]),
        ValueError,
        r"metrics must hold names that Keras knows\. Received: metrics=\[\.\.\., 'nope'\]$",
    ),
    "metric_number": (
        lambda: pk.BinaryHead("a", metrics=[3]),
        TypeError,
        r"metrics must hold names, functions.*Received: metrics=\[\.\.\., 3\]$",
    ),
    "metric_dict": (
        lambda: pk.BinaryHead("a", metrics=[{"a": "mse"}]),
        TypeError,
        r"metrics must hold names, functions.*Received: metrics=\[\.\.\., \{'a'",
    ),
    "metric_class": (
        lambda: pk.BinaryHead("a", metrics=[keras.metrics.AUC]),
        TypeError,
        r"metrics must hold names, functions.*Received: metrics=\[\.\.\., <class",
    ),
    "metrics_one_string": (
        lambda: pk.BinaryHead("a", metrics="auc"),
        TypeError,
        r"metrics must be a sequence of metrics\. Received: metrics='auc'$",
    ),
    "metrics_one_object": (
        lambda: pk.BinaryHead("a", metrics=keras.metrics.AUC()),
        TypeError,
        r"metrics must be a sequence of metrics\. Received: metrics=<AUC",
    ),
    "metrics_dict": (
        lambda: pk.BinaryHead("a", metrics={"a": ["accuracy"]}),
        TypeError,
        r"metrics must be a sequence of metrics\. Received: metrics=\{'a'",
    ),
    "loss_weight_negative": (
        lambda: pk.BinaryHead("a", loss_weight=-1),
        ValueError,
        r"loss_weight must be at least 0\. Received: loss_weight=-1$",
    ),
    "loss_weight_nan": (
        lambda: pk.RegressionHead("a", loss_weight=NAN),
        ValueError,
        r"loss_weight must be finite\. Received: loss_weight=nan$",
    ),
    "loss_weight_string": (
        lambda: pk.Head("a", loss_weight="1"),
        TypeError,
        r"loss_weight must be a number\. Received: loss_weight='1'$",
    ),
    "no_heads_by_task": (lambda: pk.TaskHeads({}), ValueError, r"Received: heads=\{\}$"),
    "no_heads": (lambda: pk.TaskHeads([]), ValueError, r"at least one head\. Received: heads=\[\]"),
    "one_head": (
        lambda: pk.TaskHeads(pk.BinaryHead("a")),
        TypeError,
        r"heads must be a sequence of heads.*Received: heads=<BinaryHead",
    ),
    "heads_not_heads": (
        lambda: pk.TaskHeads([pk.BinaryHead("a"), keras.layers.Dense(1)]),
        TypeError,
        r"heads must be a sequence of heads.*Received: heads=\[<BinaryHead.*<Dense",
    ),
    "heads_names": (
        lambda: pk.TaskHeads(["a", "b"]),
        TypeError,
        r"heads must be a sequence of heads.*Received: heads=\['a', 'b'\]",
    ),
    "heads_none": (lambda: pk.TaskHeads(None), TypeError, r"Received: heads=None"),
    "heads_of_one_task": (
        lambda: pk.TaskHeads([pk.BinaryHead("a"), pk.RegressionHead("a", name="b")]),
        ValueError,
        r"heads must have different tasks, not \['a', 'a'\]\. Received: heads=\[<Binary",
    ),
    "heads_of_one_name": (
        lambda: pk.TaskHeads([pk.BinaryHead("a", name="x"), pk.BinaryHead("b", name="x")]),
        ValueError,
        r"heads must have different layer names, not \['x', 'x'\]\. Received: heads=",
    ),
    "heads_under_another_task": (
        lambda: pk.TaskHeads({"b": pk.BinaryHead("a")}),
        ValueError,
        r"map each task to its own head, but 'b' has <BinaryHead.*Received: heads=\{'b'",
    ),
    "no_layers": (
        lambda: pk.SequentialBlock([]),
        ValueError,
        r"layers must hold at least one layer\. Received: layers=\[\]$",
    ),
    "one_layer": (
        lambda: pk.SequentialBlock(keras.layers.Dense(3)),
        TypeError,
        r"layers must be a sequence of Keras layers\. Received: layers=<Dense",
    ),
    "layers_not_layers": (
        lambda: pk.SequentialBlock([keras.layers.Dense(3), len]),
        TypeError,
        r"layers must be a sequence of Keras layers\. Received: layers=\[<Dense",
    ),
    "layers_of_one_name": (
        lambda: pk.SequentialBlock([keras.layers.Dense(3, name="x") for _ in range(2)]),
        ValueError,
        r"layers must have different names\. Received: layers=\['x', 'x'\]$",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), table(BAD_ARGUMENTS))
def test_a_bad_argument_is_refused(make, error, message):
    check_refused(make, error, message)


# Templates --------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("test_refused")
class Forgetful(pk.ExpertBlock):
    """Has one more argument than the config that it inherits."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale


@keras.saving.register_keras_serializable("test_refused")
class Opaque(keras.layers.Layer):
    """Has no get_config, and an argument that Keras can't keep."""

    def __init__(self, thing, **kwargs):
        super().__init__(**kwargs)
        self.thing = thing


@keras.saving.register_keras_serializable("test_refused")
class Splitting(keras.layers.Layer):
    """Returns two tensors."""

    def call(self, inputs):
        return [inputs, inputs]


def functional_of_seven_features():
    inputs = keras.Input((7,))
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


BAD_TEMPLATES = {
    "lambda": (lambda: keras.layers.Lambda(lambda x: x), ValueError, r"copied.*Lambda"),
    "without_get_config": (
        lambda: Forgetful(3, scale=2.0),
        ValueError,
        r"takes \['scale'\], which its config lacks; give Forgetful a get_config",
    ),
    "inside_a_sequential": (
        lambda: keras.Sequential([Forgetful(3, scale=2.0)]),
        ValueError,
        r"takes \['scale'\], which its config lacks",
    ),
    "not_serializable": (lambda: Opaque(Unlike()), ValueError, r"give it\s+get_config"),
    "class": (lambda: keras.layers.Dense, TypeError, r"instance of a Keras layer.*=<class"),
    "name": (lambda: "dense", TypeError, r"instance of a Keras layer.*='dense'"),
    "function": (lambda: len, TypeError, r"instance of a Keras layer.*=<built-in"),
    "dict": (lambda: {"units": 3}, TypeError, r"instance of a Keras layer.*=\{'units': 3\}"),
}


@pytest.mark.parametrize(("make_template", "error", "message"), table(BAD_TEMPLATES))
@pytest.mark.parametrize("name", list(TEMPLATE_ARGUMENTS))
def test_a_template_that_cannot_be_copied_is_refused(name, make_template, error, message):
    argument = name.split("_of_")[0]
    template = make_template()
    check_refused(
        lambda: TEMPLATE_ARGUMENTS[name](template),
        error,
        f"^{argument} must be .*{message}",
    )
    check_refused(lambda: TEMPLATE_ARGUMENTS[name](template), error, f"Received: {argument}=")


UNFIT_TEMPLATES = {
    "flatten": (keras.layers.Flatten, (2, 3, 5), r"it maps \(2, 3, 5\) to \(2, 15\)"),
    "pooling": (
        keras.layers.GlobalAveragePooling1D,
        (2, 3, 5),
        r"it maps \(2, 3, 5\) to \(2, 5\)",
    ),
    "dict": (lambda: pk.SharedBottomBlock(["t"], 3), (2, 5), r"it maps \(2, 5\) to \{'t'"),
    "list": (Splitting, (2, 5), r"it maps \(2, 5\) to \["),
    "other_width": (functional_of_seven_features, (2, 5), r"take inputs of shape \(2, 5\)"),
}


@pytest.mark.parametrize(("make_template", "shape", "message"), table(UNFIT_TEMPLATES))
@pytest.mark.parametrize("name", list(TEMPLATE_ARGUMENTS))
def test_a_template_that_maps_features_to_no_features_is_refused(
    name, make_template, shape, message
):
    argument = name.split("_of_")[0]
    layer = TEMPLATE_ARGUMENTS[name](make_template())
    check_refused(
        lambda: layer(features(*shape)),
        ValueError,
        f"{argument} must .*{message}.*Received: {argument}=",
    )


def test_experts_whose_outputs_differ_in_width_are_refused():
    block = pk.CGCBlock(["a"], keras.layers.Activation("relu"))
    inputs = {"a": features(2, 5), "shared": features(2, 4)}
    check_refused(
        lambda: block(inputs),
        ValueError,
        r"one width, but these differ: \{'a/expert_0': 5, 'shared/expert_0': 4\}\. "
        r"Received: expert_block=<Activation",
    )


# Inputs -----------------------------------------------------------------------------------------

LAYERS_OF_ONE_TENSOR = {
    "expert": lambda: pk.ExpertBlock([4, 3]),
    "gate": lambda: pk.Gate(3),
    "gate_of_one_expert": lambda: pk.Gate(1),
    "gate_with_block": lambda: pk.Gate(3, gate_block=4),
    "cgc": lambda: pk.CGCBlock(["a"], 3),
    "cgc_copied": lambda: pk.CGCBlock(["a"], keras.layers.Dense(3)),
    "ple": lambda: pk.PLEBlock(2, ["a"], 3),
    "mmoe": lambda: pk.MMoEBlock(["a"], 3, 2),
    "shared_bottom": lambda: pk.SharedBottomBlock(["a"], 3),
    "shared_bottom_of_a_layer": lambda: pk.SharedBottomBlock(["a"], keras.layers.Dense(3)),
    "head": lambda: pk.BinaryHead("a"),
    "head_with_tower": lambda: pk.BinaryHead("a", tower=4),
}

every_layer = pytest.mark.parametrize(
    "make", list(LAYERS_OF_ONE_TENSOR.values()), ids=list(LAYERS_OF_ONE_TENSOR)
)

BAD_INPUTS = {
    "rank_1": (
        lambda: features(5),
        r"\(batch, \.\.\., features\).*Received: inputs.*\.shape=\(5,\)",
    ),
    "list": (lambda: [features(2, 5), features(2, 5)], r"Received: inputs"),
    "tuple": (lambda: (features(2, 5),), r"Received: inputs"),
    "unknown_width": (
        lambda: keras.Input((None,)),
        r"a known number of\s+features.*Received: inputs.*\.shape=\(None, None\)",
    ),
    "unknown_key": (lambda: {"b": features(2, 5)}, r"Received: inputs"),
}


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_INPUTS))
@every_layer
def test_inputs_that_are_no_features_are_refused_at_the_first_call(make, make_inputs, message):
    layer, inputs = make(), make_inputs()
    check_refused(lambda: layer(inputs), ValueError, message)


MADE_OF_LEVELS = [LAYERS_OF_ONE_TENSOR[name] for name in ("cgc", "cgc_copied", "ple", "mmoe")]

BAD_LATER_INPUTS = {
    "other_width": (
        lambda: features(2, 6),
        r"\(batch, \.\.\., 5\), as when .*\. Received: inputs\['\w+'\]\.shape=\(2, 6\)",
    ),
    "symbolic_other_width": (
        lambda: keras.Input((6,)),
        r"\(batch, \.\.\., 5\), as when .*\. Received: inputs\['\w+'\]\.shape=\(None, 6\)",
    ),
    "rank_1": (
        lambda: features(5),
        r"\(batch, \.\.\., 5\), as when .*\. Received: inputs\['\w+'\]\.shape=\(5,\)",
    ),
    "list": (
        lambda: [features(2, 5), features(2, 5)],
        r"inputs must be one tensor or a dict by stream\. Received: inputs=\[",
    ),
}


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_LATER_INPUTS))
@pytest.mark.parametrize("make", MADE_OF_LEVELS, ids=["cgc", "cgc_copied", "ple", "mmoe"])
def test_other_inputs_than_a_level_was_built_for_are_refused(make, make_inputs, message):
    layer, inputs = make(), make_inputs()
    layer(features(2, 5))
    check_refused(lambda: layer(inputs), ValueError, message)


def test_a_width_not_known_yet_is_taken_by_a_built_level():
    block = pk.CGCBlock(["a"], 3)
    block(features(2, 5))
    assert block(keras.Input((None,)))["a"].shape == (None, 3)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(LAYERS_OF_ONE_TENSOR[name], id=name)
        for name in ("expert", "gate", "gate_with_block", "shared_bottom", "head_with_tower")
    ],
)
def test_keras_itself_refuses_another_width_in_layers_of_one_network(make):
    layer = make()
    layer(features(2, 5))
    with pytest.raises(
        ValueError, match=r"to have value 5, but received input with shape \(2, 6\)"
    ):
        layer(features(2, 6))


def streams(**widths):
    return {stream: features(2, width) for stream, width in widths.items()}


BAD_STREAMS = {
    "missing": (lambda: streams(a=5, b=4), r"missing: \['shared'\], not known: \[\]"),
    "extra": (lambda: streams(a=5, b=4, c=4, shared=6), r"missing: \[\], not known: \['c'\]"),
    "renamed": (lambda: streams(a=5, B=4, shared=6), r"missing: \['b'\], not known: \['B'\]"),
}


@pytest.mark.parametrize(("make_inputs", "message"), table(BAD_STREAMS))
@pytest.mark.parametrize("block", [BLOCKS["cgc"], BLOCKS["ple"]], ids=["cgc", "ple"])
@pytest.mark.parametrize("is_built", [False, True], ids=["first_call", "later_call"])
def test_a_dict_with_other_keys_than_the_streams_is_refused(block, make_inputs, message, is_built):
    layer, inputs = block(["a", "b"]), make_inputs()
    if is_built:
        layer(streams(a=5, b=4, shared=6))
    check_refused(
        lambda: layer(inputs), ValueError, f"inputs must have.*{message}.*Received: inputs="
    )


def test_an_empty_dict_is_refused():
    layer = pk.CGCBlock(["a"], 3)
    check_refused(lambda: layer({}), ValueError, r"Received: inputs")
    layer(features(2, 5))
    check_refused(lambda: layer({}), ValueError, r"missing: \['a', 'shared'\].*Received: inputs=")


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: pk.BinaryHead("a", activation="tanh"), "activation='tanh'"),
        (lambda: pk.BinaryHead("a", units=3), "units=3"),
        (lambda: pk.MulticlassHead("a", num_classes=3, units=3), "units=3"),
        (lambda: pk.PLEBlock(2, ["a"], 3, add_shared_gate=True), "add_shared_gate=True"),
        (lambda: pk.MMoEBlock(["a"], 3, 2, add_shared_gate=True), "add_shared_gate=True"),
    ],
)
def test_an_argument_that_is_fixed_is_refused(make, argument):
    check_refused(make, TypeError, rf"can't be chosen here.*Received: {argument}$")


@pytest.mark.parametrize(
    "layer",
    [
        pk.SharedBottomBlock(["a"], 3),
        pk.Gate(1),
        pk.Gate(2),
        pk.BinaryHead("a"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_another_width_later_is_refused_under_the_layers_own_name(layer):
    layer(features(2, 5))
    with pytest.raises(ValueError, match=rf"layer .{layer.name}..*value 5.*received.*\(2, 4\)"):
        layer(features(2, 4))
    with pytest.raises(ValueError, match="value 5"):
        layer(keras.Input((4,)))


def test_an_empty_dict_into_a_row_of_layers():
    ple = pk.PLEBlock(1, ["a"], 3)
    check_refused(lambda: ple({}), ValueError, r"inputs must be a tensor.*Received: inputs")


def test_a_shared_input_is_refused_where_nothing_is_shared():
    block = pk.CGCBlock(["a"], 3, num_shared_experts=0, add_shared_gate=False)
    check_refused(
        lambda: block(streams(a=5, shared=5)),
        ValueError,
        r"not known: \['shared'\]\. Received: inputs=\{'a', 'shared'\}",
    )


def test_streams_that_differ_in_more_than_the_width_are_refused():
    block = pk.CGCBlock(["a"], 3)
    inputs = {"a": features(2, 5), "shared": features(2, 3, 5)}
    check_refused(
        lambda: block(inputs),
        ValueError,
        r"same axes in every stream but the last\. Received: inputs=\{'a': \(2, 5\), 'shared'",
    )


def test_a_stream_of_another_width_than_before_is_refused():
    block = pk.CGCBlock(["a"], 3)
    block(streams(a=5, shared=4))
    check_refused(
        lambda: block(streams(a=5, shared=6)),
        ValueError,
        r"\(batch, \.\.\., 4\), as when .*Received: inputs\['shared'\]\.shape=\(2, 6\)",
    )


@pytest.mark.parametrize("is_built", [False, True], ids=["first_call", "later_call"])
@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        pytest.param(np.ones((2, 5), "float32"), TypeError, r"must be a dict by task", id="tensor"),
        pytest.param([np.ones((2, 5))] * 2, TypeError, r"must be a dict by task", id="list"),
        pytest.param(streams(a=5), ValueError, r"missing: \['b'\]", id="missing"),
        pytest.param(streams(a=5, b=5, c=5), ValueError, r"not known: \['c'\]", id="extra"),
    ],
)
def test_task_heads_refuse_all_but_a_dict_by_task(is_built, inputs, error, message):
    heads = pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("b")])
    if is_built:
        heads(streams(a=5, b=5))
    check_refused(lambda: heads(inputs), error, f"{message}.*Received: inputs=")


# Methods ----------------------------------------------------------------------------------------

METHODS = {
    "expert_outputs_unbuilt": (
        lambda: pk.CGCBlock(["a"], 3),
        lambda block: block.expert_outputs(features(2, 5)),
        r"must be built or called before.*Received: built=False$",
    ),
    "gate_weights_unbuilt": (
        lambda: pk.CGCBlock(["a"], 3),
        lambda block: block.gate_weights(features(2, 5)),
        r"must be built or called before.*Received: built=False$",
    ),
    "logits_unbuilt": (
        lambda: pk.BinaryHead("a"),
        lambda head: head.logits(features(2, 5)),
        r"must be built or called before.*Received: built=False$",
    ),
    "statistics_not_tracked": (
        lambda: built(pk.Gate(3)),
        lambda gate: gate.statistics(),
        r"track_weights=True\. Received: track_weights=False, built=True$",
    ),
    "statistics_unbuilt": (
        lambda: pk.Gate(3, track_weights=True),
        lambda gate: gate.statistics(),
        r"built gate.*Received: track_weights=True, built=False$",
    ),
    "get_layer_unknown": (
        lambda: pk.PLEBlock(2, ["a"], 3),
        lambda ple: ple.get_layer("cgc_block_2"),
        r"one of \['cgc_block_0', 'cgc_block_1'\]\. Received: name='cgc_block_2'$",
    ),
    "expert_outputs_of_another_width": (
        lambda: built(pk.CGCBlock(["a"], 3)),
        lambda block: block.expert_outputs(features(2, 6)),
        r"\(batch, \.\.\., 5\), as when .*Received: inputs\['a'\]\.shape=\(2, 6\)$",
    ),
    **{
        f"{method}_of_symbolic_inputs": (
            lambda: built(pk.CGCBlock(["a"], 3)),
            operator.methodcaller(method, keras.Input((5,))),
            r"not symbolic.*ple_keras\.gate_weights\(model, x\) or ple_keras\.gate_report\(model, "
            r"x\).*Received: inputs=<KerasTensor",
        )
        for method in ("expert_outputs", "gate_weights")
    },
    "tasks_named_val": (
        lambda: pk.TaskHeads([pk.BinaryHead("a"), pk.BinaryHead("val")]),
        lambda heads: heads.compile_kwargs(),
        r"a task 'val', .*such as val_loss.*Received: tasks=\['a', 'val'\]$",
    ),
    "tasks_of_one_name_but_for_val": (
        lambda: pk.TaskHeads([pk.BinaryHead("val_x"), pk.BinaryHead("x")]),
        lambda heads: heads.compile_kwargs(),
        r"a task 'val_x', .*such as val_x_loss.*Received: tasks=\['val_x', 'x'\]$",
    ),
    "gate_weights_of_a_list": (
        lambda: built(pk.CGCBlock(["a"], 3)),
        lambda block: block.gate_weights([features(2, 5)]),
        r"must be one tensor.*Received: inputs",
    ),
}


def built(layer):
    layer.build((None, 5))
    return layer


@pytest.mark.parametrize(("make", "call", "message"), table(METHODS))
def test_a_method_called_in_vain_is_refused(make, call, message):
    layer = make()
    check_refused(lambda: call(layer), ValueError, message)


@every_layer
def test_a_refused_call_leaves_the_layer_usable(make):
    layer = make()
    with pytest.raises(ValueError, match="Received: inputs"):
        layer(features(5))
    layer(features(2, 5))
    assert layer.built
