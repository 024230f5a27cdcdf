"""Measure how much one changed setting of hedged branches changes `hedge/loss`.

    pip install -e ".[torch,tables]"
    KERAS_BACKEND=torch python -m examples.benchmarks.tuning        # from the kept losses
    KERAS_BACKEND=torch python -m examples.benchmarks.tuning --run  # measures again

The tables are those of `against_boosting` with at most 10,000 rows, of which 70% are for training:
films are MovieLens. "Default" has the columns, the network, the heads and the stop of TabularModel.
A loss is the last `hedge/loss`, on the validation rows that also stop the training, as when users
tune. Changes are in percent of it, means over the seeds, and negative if better. "Noise" is twice
the standard error of the mean over tables: the deviation of the changes between seeds, divided by
the root of the number of fits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

import ple_keras as pk
from ple_keras.tabular.task_columns import TaskColumns

from ._frames import KINDS, ROOT, TABLES
from ._tables import align_columns, make_parser

KEPT = ROOT / "docs" / "results" / "tuning.json"
NAMES = {"films": "MovieLens"} | {name: name for name in ("texts", "counts", "flights", "census")}
PARTS = (7000, 1500)  # rows for training and validation
DEFAULT = "default"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "learning rate 0.004": {"rate": 0.004},
    "learning rate 0.001": {"rate": 0.001},
    "tables of width 16": {"width": 16},
    "tables of width 32": {"width": 32},
    "dropout of tables 0.4": {"table_dropout": 0.4},
    "rate of tables 0.3": {"table_rate": 0.3},
    "rate of tables 0.03": {"table_rate": 0.03},
    "dropout of experts 0": {"dropout": 0.0},
    "dropout of experts 0.1": {"dropout": 0.1},
    "dropout of experts 0.3": {"dropout": 0.3},
}


def measure(
    table: str,
    seed: int,
    rate: float = 0.002,
    width: int = 8,
    table_dropout: float = 0.0,
    table_rate: float = 0.1,
    dropout: float = 0.02,
    epochs: int = 100,
) -> float:
    """Return `hedge/loss` after a fit."""
    found, rng = TABLES[table](seed), np.random.default_rng(seed)
    kinds = {name: KINDS[name] for name in found.frame if name in KINDS}
    frames = [found.frame.loc[rng.permutation(r)[:n]] for r, n in zip(found.rows, PARTS)]
    tasks, columns = TaskColumns(kinds), pk.Columns.infer(found.frame, kinds, found.ids)
    columns.fit(frames[0])
    tasks.fit(found.frame, columns.names)
    keras.utils.set_random_seed(seed)
    heads = pk.TaskHeads(tasks.heads((16,)))
    network = columns.network(width, table_dropout, packed=True)
    expert = pk.ExpertBlock([64, 32], dropout=dropout)
    features = pk.HedgedBlock(heads, expert, features=network)(network.input)
    model = pk.MultiTaskModel(network.input, heads(features))
    model.compile(pk.table_optimizer(keras.optimizers.Adam(rate), pk.SparseAdagrad(table_rate)))
    train, valid = ((columns.transform(f, packed=True), tasks.labels(f)) for f in frames)
    hedge = pk.FitHedge(valid, 4096, patience=5)
    history = model.fit(*train, 500, epochs, verbose=0, callbacks=[hedge]).history
    return float(history["hedge/loss"][-1])


def format_table(kept: pd.DataFrame) -> str:
    """Return the changes of the losses by setting and table."""
    losses = kept.pivot_table("loss", ["table", "seed"], "setting")
    changes = 100 * losses.div(losses[DEFAULT], axis=0) - 100
    by_table = changes.groupby("table").mean()
    noise = 2 * changes.groupby("table").std().pow(2).mean() ** 0.5 / len(changes) ** 0.5
    rows = [("", *NAMES, "mean", "noise")]
    for setting in list(SETTINGS)[1:]:
        each = [*by_table.loc[[*NAMES], setting], by_table[setting].mean()]
        rows.append((setting, *(f"{x:+.1f}" for x in each), f"{noise[setting]:.1f}"))
    return align_columns(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the losses, or print the kept changes."""
    parser = make_parser(__doc__)
    parser.add_argument("--run", action="store_true", help="measure again")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds; 3 by default")
    parser.add_argument("--json", type=Path, default=KEPT, help="the kept losses")
    args = parser.parse_args(arguments)
    if args.run:
        rows = [
            {"table": name, "seed": seed, "setting": setting, "loss": measure(table, seed, **each)}
            for seed in range(args.seeds)
            for name, table in NAMES.items()
            for setting, each in SETTINGS.items()
        ]
        pd.DataFrame(rows).to_json(args.json, orient="records", indent=1, double_precision=6)
    print(format_table(pd.read_json(args.json)))


if __name__ == "__main__":
    main()
