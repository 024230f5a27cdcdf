"""Compare models of a matrix of assays, in which most labels are missing.

    pip install -e ".[torch,assays]"
    KERAS_BACKEND=torch python -m examples.benchmarks.assays                     # kept results
    KERAS_BACKEND=torch python -m examples.benchmarks.assays --run tox21.csv.gz  # what is missing

A file has a molecule in each row: its "smiles", and 0, 1 or nothing for each target. The kept
results are those of Tox21 and ToxCast, which DeepChem distributes. `--run` keeps predictions in the
folder `predictions`, so that nothing is trained twice. The rules:

    inputs      Morgan fingerprints (radius 2, 2,048 bits). Molecules that RDKit can't read are left
                out.
    parts       80% of the molecules for training, 10% for validation and 10% for the test, for each
                seed. Equal molecules are in one part ("random"), or all molecules with one scaffold
                of Bemis and Murcko ("scaffold"). Scaffolds of more than 5% are in training.
    by target   logistic regression and random forest of scikit-learn, and LightGBM for up to 100
                targets. To save time, the forest has every tenth of more than 100 targets.
    networks    units 512 and 128, dropout, Adam, batches of 256. "By hand" is plain Keras with a
                masked loss. "Bottom" has a head with all targets, with two reductions. "MMoE" has
                four experts [128, 128], and a gate for each of up to 100 targets, else one gate.
                "Hedged" has two networks, and "linear + network" a branch that is linear in the
                inputs. "... + bottom" are mixtures of predictions, with one weight for all targets,
                by `mix_predictions` on the validation rows.
    tuning      on validation rows of seed 0 by random: four values of C for the logistic
                regression; three sizes of leaves of the forest on some targets, as for three
                settings of LightGBM on Tox21; and three settings of the network by hand on Tox21,
                of which all networks use the best. Networks and LightGBM stop by the loss on the
                validation rows.
    scores      the mean over targets, and over seeds, of the AUC on test rows, for targets with
                both labels there. Intervals are 95% intervals over targets, as if they were
                independent. Gains are paired, on the targets and seeds that both models have.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import keras
import lightgbm
import numpy as np
import pandas as pd
from keras import ops
from rdkit import Chem, RDLogger
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from scipy import sparse, stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import ple_keras as pk

from ._tables import align_columns, make_parser

ROOT = Path(__file__).parents[2]
KEPT, PREDICTIONS = ROOT / "docs" / "results" / "assays.json", ROOT / "predictions"
SPLITS = ["random", "scaffold"]
NETWORKS = ["by hand", "bottom", "bottom, by target", "MMoE", "hedged", "linear + network"]
MIXTURES = {f"{model} + bottom": [model, "bottom"] for model in ("by hand", "logistic", "forest")}
HEDGED, REFERENCE = NETWORKS[4:], "bottom"
SETTINGS: dict[str, Any] = {  # by model, and by table where they differ
    "logistic": {"C": 0.3, "solver": "liblinear"},
    "forest": {"n_estimators": 100, "min_samples_leaf": 2},
    "forest, toxcast": {"n_estimators": 100, "min_samples_leaf": 1},
    "LightGBM": {"n_estimators": 1000, "num_leaves": 31, "learning_rate": 0.1},
}
DROPOUT, RATE, EPOCHS, PATIENCE, BATCH = 0.5, 1e-3, 40, 3, 256
CLASSIFIERS: dict[str, Any] = {
    "logistic": LogisticRegression,
    "forest": RandomForestClassifier,
    "LightGBM": partial(lightgbm.LGBMClassifier, n_jobs=1, verbose=-1),
}
STEPS = {"forest": 10}  # of targets, in tables of more than 100, to save time


# The data


class Data(NamedTuple):
    x: np.ndarray  # (molecules, 2048)
    y: np.ndarray  # (molecules, targets), NaN where missing
    targets: list[str]
    groups: dict[str, np.ndarray]  # by split
    unread: int


def read(file: Path) -> Data:
    """Return the fingerprints and the labels of the molecules that RDKit can read."""
    RDLogger.DisableLog("rdApp.*")
    frame = pd.read_csv(file)
    molecules = [Chem.MolFromSmiles(each) for each in frame["smiles"]]
    is_read = np.array([each is not None for each in molecules])
    molecules = [each for each in molecules if each is not None]
    morgan = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    scaffold = MurckoScaffold.MurckoScaffoldSmiles
    groups = [Chem.MolToSmiles(each) for each in molecules], [scaffold(mol=m) for m in molecules]
    labels = frame.select_dtypes("number").loc[is_read]
    return Data(
        np.array([morgan.GetFingerprintAsNumPy(each) for each in molecules], "float32"),
        labels.to_numpy("float32"),
        [*labels],
        {split: pd.factorize(np.array(each))[0] for split, each in zip(SPLITS, groups)},
        int((~is_read).sum()),
    )


def split_rows(groups: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the rows of three parts, of whole groups; groups above 5% of the rows come first."""
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(sizes[order] <= len(groups) / 20, kind="stable")]
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    parts = np.empty(len(sizes), int)
    parts[order] = np.searchsorted([0.8 * len(groups), 0.9 * len(groups)], middles)
    return [np.flatnonzero(parts[groups] == part) for part in range(3)]


# The models


def fit_targets(model: str, table: str, x: Any, y: Any, seed: int) -> list[np.ndarray]:
    """Fit a classifier to each target. Return probabilities of validation and test rows."""
    x = [sparse.csr_matrix(each) for each in x]
    count = y[0].shape[1]
    found = [np.full_like(each, np.nan) for each in y[1:]]
    setting = SETTINGS.get(f"{model}, {table}", SETTINGS[model])
    for target in range(0, count, STEPS.get(model, 1) if count > 100 else 1):
        known = [np.flatnonzero(~np.isnan(each[:, target])) for each in y]
        train, valid, _ = ((a[rows], b[rows, target]) for a, b, rows in zip(x, y, known))
        options = {}
        if model == "LightGBM":
            stop = lightgbm.early_stopping(50, verbose=False)
            options = {"eval_set": [valid], "callbacks": [stop]}
        is_constant = len(np.unique(train[1])) < 2
        if not is_constant:
            fitted = CLASSIFIERS[model](random_state=seed, **setting).fit(*train, **options)
        for p, part in zip(found, x[1:]):
            p[:, target] = 0.5 if is_constant else fitted.predict_proba(part)[:, 1]
    return found


def masked_loss(y_true: Any, y_pred: Any) -> Any:
    known = ops.logical_not(ops.isnan(y_true))
    y_pred = ops.clip(y_pred, 1e-7, 1 - 1e-7)
    losses = -ops.log(ops.where(ops.equal(y_true, 1), y_pred, 1 - y_pred))
    count = ops.maximum(ops.sum(ops.cast(known, "float32")), 1)
    return ops.sum(ops.where(known, losses, 0)) / count


def by_hand(targets: int) -> Any:
    """Return the network in plain Keras."""
    x = inputs = keras.Input((2048,))
    for units in (512, 128):
        x = keras.layers.Dropout(DROPOUT)(keras.layers.Dense(units, activation="relu")(x))
    return keras.Model(inputs, keras.layers.Dense(targets, activation="sigmoid")(x))


def network(model: str, targets: Sequence[str]) -> Any:
    """Return a network of ple_keras."""
    reduction = "by_target" if model == "bottom, by target" else None
    head = pk.BinaryHead("assays", targets=targets, reduction=reduction, metrics=[])
    heads = pk.TaskHeads([head])
    expert = pk.ExpertBlock([512, 128], dropout=DROPOUT)
    if model == "MMoE":
        if len(targets) < 100:  # a gate for each target
            tasks = (f"target-{i}" for i in range(len(targets)))
            heads = pk.TaskHeads([pk.BinaryHead(task, metrics=[]) for task in tasks])
        block = pk.MMoEBlock(heads, pk.ExpertBlock([128, 128], dropout=DROPOUT), 4)
    elif model == "hedged":
        block = pk.HedgedBlock(heads, expert)
    elif model == "linear + network":
        linear = pk.CGCBlock(heads, keras.layers.Identity(), 1, 0, add_shared_gate=False)
        shared = pk.SharedBottomBlock(heads, expert)
        block = pk.HedgedBlock(heads, branches={"linear": linear, "shared": shared})
    else:
        block = pk.SharedBottomBlock(heads, expert)
    inputs = keras.Input((2048,))
    return pk.MultiTaskModel(inputs, heads(block(inputs)))


def fit_network(model: str, targets: Any, x: Any, y: Any, seed: int) -> list[np.ndarray]:
    """Train a network until its validation loss stops. Return predictions as `fit_targets`."""
    keras.utils.set_random_seed(seed)
    is_by_hand = model == "by hand"
    built = by_hand(len(targets)) if is_by_hand else network(model, targets)
    built.compile(keras.optimizers.Adam(RATE), **({"loss": masked_loss} if is_by_hand else {}))
    tasks = [] if is_by_hand else [*built.output]
    if len(tasks) > 1:
        y = [dict(zip(tasks, part.T)) for part in y]
    stop = keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True)
    callback = pk.FitHedge(patience=PATIENCE) if model in HEDGED else stop
    options = {"validation_batch_size": len(x[1]), "callbacks": [callback], "verbose": 0}
    built.fit(x[0], y[0], BATCH, EPOCHS, validation_data=(x[1], y[1]), **options)
    found = [built.predict(part, batch_size=1024, verbose=0) for part in x[1:]]
    return [np.hstack([p[task] for task in tasks]) if tasks else p for p in found]


# The comparison


def areas(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the AUC of each target, NaN without both labels or without predictions."""
    found = np.full(y.shape[1], np.nan)
    for target, (label, score) in enumerate(zip(y.T, p.T)):
        known = ~np.isnan(label + score)
        if len(np.unique(label[known])) == 2:
            found[target] = roc_auc_score(label[known], score[known])
    return found


def file_of(table: str, split: str, seed: int, model: str) -> Path:
    return PREDICTIONS / f"{table}-{split}-{seed}-{model}.npz"


def read_areas(table: str, data: Data, split: str) -> dict[str, np.ndarray]:
    """Return the AUC by model, seed and target, NaN where it is not kept."""
    names, seeds = [*CLASSIFIERS, *NETWORKS, *MIXTURES], range(3)
    found = {name: np.full((len(seeds), len(data.targets)), np.nan) for name in names}
    for seed in seeds:
        _, valid, test = (data.y[rows] for rows in split_rows(data.groups[split], seed))
        files = {name: file_of(table, split, seed, name) for name in names}
        p = {name: [*np.load(file).values()] for name, file in files.items() if file.exists()}
        for name, pair in MIXTURES.items():
            if {*pair} <= {*p}:  # one mixture for all targets
                has = ~np.isnan(p[pair[0]][0][0])  # the forest can have fewer targets
                known, new = ({m: {"y": p[m][i][:, has].ravel()} for m in pair} for i in (0, 1))
                mixture = pk.mix_predictions({"y": valid[:, has].ravel()}, known, {"y": "binary"})
                p[name] = [np.full_like(test, np.nan)]
                p[name][0][:, has] = mixture.predict(new)["y"].reshape(len(test), -1)
        for name, parts in p.items():
            found[name][seed] = areas(test, parts[-1])
    return {name: each for name, each in found.items() if not np.isnan(each).all()}


def interval(values: np.ndarray) -> list[float]:
    """Return the mean over targets of the means over seeds, and the ends of its interval."""
    values = values[:, ~np.isnan(values).all(axis=0)]
    means = np.nanmean(values, axis=0)
    half = stats.t.ppf(0.975, len(means) - 1) * stats.sem(means)
    return [round(float(means.mean() + side * half), 5) for side in (0, -1, 1)]


def compare(table: str, data: Data, of_table: dict[str, Any]) -> None:
    """Add the mean AUC of each model and mixture, and its gain over the reference."""
    for split in of_table["fits"]:
        found = read_areas(table, data, split)
        of_table["means"][split] = {name: interval(each) for name, each in found.items()}
        if REFERENCE in found:
            gains = {n: interval(a - found[REFERENCE]) for n, a in found.items() if n != REFERENCE}
            of_table["gains"][split] = gains


def run(file: Path, seeds: int, models: Sequence[str]) -> None:
    """Train what is not kept. Scores are written after each fit."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    table, data = file.name.partition(".")[0].partition("_")[0], read(file)
    of_table = kept.setdefault(table, {"fits": {}, "means": {}, "gains": {}})
    of_table["molecules"], of_table["unread"] = len(data.y), data.unread
    PREDICTIONS.mkdir(exist_ok=True)
    for seed, split, model in product(range(seeds), SPLITS, models):
        fits = of_table["fits"].setdefault(split, {}).setdefault(model, {})
        if str(seed) in fits or (model == "LightGBM" and len(data.targets) > 100):
            continue
        rows, start = split_rows(data.groups[split], seed), time.process_time()
        x, y = ([each[part] for part in rows] for each in (data.x, data.y))
        if model in CLASSIFIERS:
            p = fit_targets(model, table, x, y, seed)
        else:
            p = fit_network(model, data.targets, x, y, seed)
        seconds = round(time.process_time() - start, 1)
        np.savez_compressed(file_of(table, split, seed, model), *p)
        valid, test = (float(np.nanmean(areas(*each))) for each in zip(y[1:], p))
        fits[str(seed)] = {"auc": round(test, 5), "valid": round(valid, 5), "seconds": seconds}
        KEPT.write_text(json.dumps(kept, indent=1))
        print(table, split, seed, model, fits[str(seed)], flush=True)
    compare(table, data, of_table)
    KEPT.write_text(json.dumps(kept, indent=1))


# The results


def tables_of(kept: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page by name."""
    tables = {}
    for table, of_table in kept.items():
        for split, means in of_table["means"].items():
            rows = [("", "AUC", f"points over {REFERENCE}", "seeds", "CPU s")]
            gains = of_table["gains"].get(split, {})
            for model, mean in means.items():
                row = [model, "{:.4f} [{:.3f}, {:.3f}]".format(*mean), "", "", ""]
                if model in gains:
                    points = np.multiply(gains[model], 100)
                    row[2] = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*points)
                fits = of_table["fits"][split].get(model)
                if fits:
                    seconds = [fit["seconds"] for fit in fits.values()]
                    row[3:] = f"{len(fits)}", f"{np.mean(seconds):.0f}"
                rows.append(row)
            tables[f"{table}, {split}"] = align_columns(rows)
    return tables


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not kept, and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--run", nargs="*", type=Path, default=[], help="CSV files to add what is missing of")
    add("--seeds", type=int, default=3, help="the number of seeds; 3 by default")
    add("--models", nargs="*", default=[*CLASSIFIERS, *NETWORKS], help="models to train")
    args = parser.parse_args(arguments)
    for file in args.run:
        run(file, args.seeds, args.models)
    tables = tables_of(json.loads(KEPT.read_text()))
    print(*(f"{name}\n{table}" for name, table in tables.items()), sep="\n\n")


if __name__ == "__main__":
    main()
