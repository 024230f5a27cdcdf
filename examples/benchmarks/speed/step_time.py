"""Measure training steps and predictions of ours, two baselines and other libraries.

    python examples/benchmarks/speed/step_time.py --backend jax
    python examples/benchmarks/speed/step_time.py --backend torch --case B C --plot times.png
    python examples/benchmarks/speed/step_time.py --tasks 4 --experts 128 64 --batch 1024

The models (`_models.py`) are one PLE with ReLU experts, linear gates and towers [64, 1]. They are
trained with Adam on a binary cross-entropy per task, with `train_on_batch` and `predict_on_batch`
on one fixed batch:

    floor   a plain chain of Dense layers with the multiply-adds of all experts, and the towers
    loop    the same PLE from single Dense layers, stacked, multiplied by the gate and summed
    ours    ple_keras
    peers   DeepCTR on TensorFlow, torch-rechub on PyTorch (`_peers.py`), if they are installed:
            pip install -e ".[bench]"

They take turns in short rounds. The tables have medians over the rounds; "of floor" is the median
of the ratios to the floor in the same round. Times vary between machines and runs: compare only
ratios, and only within one run.

    A   3 tasks, 2 + 2 experts [256, 128], 2 levels, 128 features, batch 4096
    B   8 tasks, 2 + 2 experts [64, 32], 3 levels, 32 features, batch 512
    C   as B, with a batch of 1: serving, by Keras and exported (`_exports.py`)
    D   as B, with 1 + 1 experts

2 + 2 experts are two experts per task and two shared experts. All models are compiled as Keras does
by default: as a graph on TensorFlow, with XLA only on a GPU or with `--xla`; with XLA on JAX; not
on PyTorch. `--first-step` measures each variant's building, first step and memory in a new process
(`_fresh.py`), which adds minutes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # folder of the modules that all benchmarks share

from _command_line import add_sizes, select_backend, select_cases, speed_parser
from _options import at_least


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the selected cases and print a table for each."""
    parser = speed_parser(__doc__)
    add_sizes(parser)
    parser.add_argument(
        "--rounds", type=at_least(1), default=15, help="number of rounds, default 15"
    )
    parser.add_argument(
        "--first-step", action="store_true", help="measure time and memory of a first step"
    )
    args = parser.parse_args(arguments)
    cases = select_cases(parser, args)
    select_backend(args)
    from _step_report import draw, environment, format_tables, write_json
    from _step_times import measure_case

    config = environment(args.xla)
    print(", ".join(f"{key} {value}" for key, value in config.items()), flush=True)
    rows = []
    for name, case in cases.items():
        measured = measure_case(name, case, args.rounds, args.xla, args.first_step)
        print(f"\n{format_tables(measured)}", flush=True)
        rows += measured
    if args.json:
        write_json(args.json, rows, config)
    if args.plot:
        draw(args.plot, rows, f"Keras {config['keras']} on {config['backend']}")


if __name__ == "__main__":
    main()
