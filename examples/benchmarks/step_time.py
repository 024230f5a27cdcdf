"""Measure training steps and predictions of ours, two baselines and other libraries.

    pip install -e ".[bench,torch]"
    KERAS_BACKEND=torch python -m examples.benchmarks.step_time  # or jax, tensorflow
    KERAS_BACKEND=torch python -m examples.benchmarks.step_time --case B C
    KERAS_BACKEND=torch python -m examples.benchmarks.step_time --options

The models (`_step_models`) are one PLE with ReLU experts, linear gates and towers [64, 1]. They are
trained with Adam on a binary cross-entropy per task, with `train_on_batch` and `predict_on_batch`
on one fixed batch:

    floor   a plain chain of Dense layers with the multiply-adds of all experts, and the towers
    loop    the same PLE from single Dense layers, stacked, multiplied by the gate and summed
    ours    ple_keras, in a plain keras.Model
    traced  on PyTorch, the same as a MultiTaskModel, whose steps are traced
    peers   DeepCTR on TensorFlow, torch-rechub on PyTorch, if they are installed

They take turns in short rounds. The tables have medians over the rounds; "of floor" is the median
of the ratios to the floor in the same round. Times vary between machines and runs: compare only
ratios, and only within one run. The CPU time is 0.02 hours per backend.

    A   3 tasks, 2 + 2 experts [256, 128], 2 levels, 128 features, batch 4096
    B   8 tasks, 2 + 2 experts [64, 32], 3 levels, 32 features, batch 512
    C   as B, with a batch of 1: predictions only
    D   as B, with 1 + 1 experts

2 + 2 experts are two experts per task and two shared experts. All models are compiled as Keras does
by default: as a graph on TensorFlow, with XLA only on a GPU; with XLA on JAX; not on PyTorch.

`--options` compares blocks of this library and their options, on two tasks that read an embedding
table of 100,000 rows of 8 through 38 columns, and 7 numbers, in batches of 1,024. Experts are
[96, 64], towers [64]. Memory counts parameters with two Adam moments each.
"""

from collections.abc import Sequence

import keras

from ._peers import available_peers
from ._step_models import CASES, NETWORKS, OPTIONS, Variant, build, build_option
from ._tables import align_columns, make_parser
from ._timing import measure_interleaved, median_ms, median_ratio


def table(variants: dict[str, Variant], rounds: int, base: str, trains: bool = True) -> str:
    """Return a table with medians of training steps and predictions, and ratios to a variant."""
    rows = [["", "train ms", f"of {base}", "predict ms", f"of {base}", "parameters", "MB"]]
    calls = [{name: variant.predict for name, variant in variants.items()}]
    if trains:
        calls.insert(0, {name: variant.train for name, variant in variants.items()})
    times = [measure_interleaved(each, rounds) for each in calls]
    for name, variant in variants.items():
        cells = [] if trains else ["-", "-"]
        for seconds in times:
            ratio = median_ratio(seconds[name], seconds[base])
            cells += [f"{median_ms(seconds[name]):.2f}", f"{ratio:.2f}"]
        megabytes = f"{12 * variant.parameters / 1e6:.1f}"
        rows.append([name, *cells, f"{variant.parameters:,}", megabytes])
    return align_columns(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the selected cases and print a table for each."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--case", nargs="+", choices=CASES, default=[*CASES], help="default: all")
    add("--rounds", type=int, default=15, help="number of rounds, default 15")
    add("--options", action="store_true", help="compare blocks and options instead")
    args = parser.parse_args(arguments)
    print(f"Keras {keras.version()} on {keras.backend.backend()}", flush=True)
    if args.options:
        options = {name: build_option(name) for name in OPTIONS}
        print(f"\n{table(options, args.rounds, 'PLE')}")
        return
    for name in args.case:
        case, names = CASES[name], [*NETWORKS, *available_peers(keras.backend.backend())]
        variants = {each: build(each, case) for each in names}
        text = table(variants, args.rounds, "floor", trains=case.batch > 1)
        print(f"\ncase {name}: {case}\n{text}", flush=True)


if __name__ == "__main__":
    main()
