"""Measure training steps and predictions of ours, two baselines and other libraries.

    pip install -e ".[bench,torch]"
    KERAS_BACKEND=torch python -m examples.benchmarks.step_time  # or jax, tensorflow
    KERAS_BACKEND=torch python -m examples.benchmarks.step_time --case B C --first-step
    KERAS_BACKEND=torch python -m examples.benchmarks.step_time --options

The models (`_step_models`) are one PLE with ReLU experts, linear gates and towers [64, 1]. They are
trained with Adam on a binary cross-entropy per task, with `train_on_batch` and `predict_on_batch`
on one fixed batch:

    floor   a plain chain of Dense layers with the multiply-adds of all experts, and the towers
    loop    the same PLE from single Dense layers, stacked, multiplied by the gate and summed
    ours    ple_keras
    peers   DeepCTR on TensorFlow, torch-rechub on PyTorch, if they are installed

They take turns in short rounds. The tables have medians over the rounds; "of floor" is the median
of the ratios to the floor in the same round. Times vary between machines and runs: compare only
ratios, and only within one run.

    A   3 tasks, 2 + 2 experts [256, 128], 2 levels, 128 features, batch 4096
    B   8 tasks, 2 + 2 experts [64, 32], 3 levels, 32 features, batch 512
    C   as B, with a batch of 1: predictions only
    D   as B, with 1 + 1 experts

2 + 2 experts are two experts per task and two shared experts. All models are compiled as Keras does
by default: as a graph on TensorFlow, with XLA only on a GPU; with XLA on JAX; not on PyTorch.
`--first-step` measures the build, the first step and its memory in new processes instead (see
`scaling`).

`--options` compares blocks of this library and their options, on two tasks that read an embedding
table of 100,000 rows of 8 through 38 columns, and 7 numbers, in batches of 1,024. Experts are
[96, 64], towers [64]. Memory counts parameters with two Adam moments each.
"""

from collections.abc import Sequence

import keras

from ._step_models import (
    CASES,
    NETWORKS,
    OPTIONS,
    Case,
    Variant,
    available_peers,
    build,
    build_option,
)
from ._tables import align_columns, at_least, make_parser
from ._timing import Seconds, measure_interleaved, median_ms, median_ratio
from .scaling import TITLES, measure_fresh

Measured = dict[str, Seconds]


def measure(variants: dict[str, Variant], rounds: int, trains: bool) -> tuple[Measured, Measured]:
    """Return the seconds of training steps and of predictions, by variant and round."""
    train = {name: variant.train for name, variant in variants.items()}
    predict = {name: variant.predict for name, variant in variants.items()}
    steps = measure_interleaved(train, rounds) if trains else {}
    return steps, measure_interleaved(predict, rounds)


def format_times(
    variants: dict[str, Variant], times: Sequence[Measured], base: str, titles: Sequence[str]
) -> str:
    """Return a table with medians, and ratios to the base, of training steps and predictions."""
    rows = [list(titles)]
    for name, variant in variants.items():
        row = [name]
        for seconds in times:
            if seconds:
                ratio = median_ratio(seconds[name], seconds[base])
                row += [f"{median_ms(seconds[name]):.2f}", f"{ratio:.2f}"]
            else:
                row += ["-", "-"]
        rows.append([*row, f"{variant.parameters:,}", variant.note])
    return align_columns(rows, left=(0, len(titles) - 1))


def table_of_case(case: Case, rounds: int) -> str:
    """Return the table of a case."""
    variants = {name: build(name, case) for name in (*NETWORKS, *available_peers())}
    times = measure(variants, rounds, trains=case.batch > 1)
    titles = ["variant", "train ms", "of floor", "predict ms", "of floor", "parameters", "note"]
    return format_times(variants, times, "floor", titles)


def table_of_options(rounds: int) -> str:
    """Return the table of options."""
    variants = {name: build_option(name) for name in OPTIONS}
    times = measure(variants, rounds, trains=True)
    titles = ["model", "train ms", "of PLE", "predict ms", "of PLE", "parameters", "MB"]
    return format_times(variants, times, "PLE", titles)


def table_of_first_steps(case: Case) -> str:
    """Return the table of the first steps of a case, in new processes."""
    names = [*NETWORKS, *available_peers()]
    return align_columns(
        [["variant", *TITLES], *([name, *measure_fresh(name, case, steps=1)] for name in names)]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the selected cases and print a table for each."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--case", nargs="+", choices=CASES, default=[*CASES], help="default: all")
    add("--rounds", type=at_least(1), default=15, help="number of rounds, default 15")
    add("--first-step", action="store_true", help="measure first steps in new processes")
    add("--options", action="store_true", help="compare blocks and options instead")
    args = parser.parse_args(arguments)
    print(f"Keras {keras.version()} on {keras.backend.backend()}", flush=True)
    if args.options:
        print(f"\n{table_of_options(args.rounds)}")
        return
    for name in args.case:
        case = CASES[name]
        table = table_of_first_steps(case) if args.first_step else table_of_case(case, args.rounds)
        print(f"\ncase {name}: {case}\n{table}", flush=True)


if __name__ == "__main__":
    main()
