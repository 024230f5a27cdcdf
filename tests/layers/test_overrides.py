"""Subclasses of CGCBlock that override `call`, and summaries."""

import ple_keras as pk
from tests.helpers import assert_same, built, features, numpy_of, once
from tests.models import chain

TASKS = ["click", "buy"]


class HalvedInputs(pk.CGCBlock):
    def call(self, inputs, training=None, *, gate_context=None):
        return super().call(0.5 * inputs, training=training)


def test_an_overridden_call_works_in_a_functional_model():
    block, plain = HalvedInputs(TASKS, [4]), built(pk.CGCBlock(TASKS, [4]), 3)
    model, x = chain(block), features(5, 3)
    plain.set_weights(block.get_weights())
    assert_same(model.predict(x, verbose=0), numpy_of(plain(0.5 * x)))


@once
def test_a_summary_shows_the_levels_experts_and_gates(capsys):
    levels = [
        pk.CGCBlock(TASKS, [4], name="stacked"),
        pk.CGCBlock(TASKS, [4], add_shared_gate=False, stack_experts=False, name="copied"),
    ]
    assert [len(level.layers) for level in levels] == [0, 0]
    model = chain(pk.SequentialBlock(levels, name="ple"))
    model.summary(expand_nested=True)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("└")[1].split()[0] for line in lines if "└ " in line]
    gates = ["gate-click", "gate-buy"]
    experts = ["expert-click-0", "expert-buy-0", "expert-shared-0"]
    assert rows == ["stacked", "experts", *gates, "gate-shared", "copied", *experts, *gates]
