"""Fetch and fit: our trainers, and each library alone on arrays read by the driver. ``python -m benchmarks.trainers``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.drivers import Driver, fill_processed, open_driver, synthetic_processed
from benchmarks.plant import DATASET, Plant, quick
from benchmarks.run import main
from benchmarks.tables import Table, compared, rounds_of
from complex_system.training.base import Trainer, TrainingParameters
from complex_system.training.data import SampleCollector, Samples, TrainingData
from complex_system.training.split import Part

NOTE = (
    "{count:,} labelled rows from MariaDB: fetched and fitted, {what}. Ours: page by page through the service and the broker into the "
    "split's float32 arrays (train and validation, 85 % of the rows), then our trainer, with the progress, the early stopping and "
    "the averaged weights that it has. The library: the driver's read into a frame, as many rows as float32 arrays, {how}. The share "
    "of the fetch is {fetch:.1f} s of ours and {read:.1f} s of the library's."
)
Fit = Callable[[TrainingData], None]


def measure(*, quick: bool) -> Iterator[Table]:
    """A table a framework."""
    count, rounds = (50_000, 2) if quick else (1_000_000, 2)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with Plant("MariaDB") as plant:
        driver = open_driver("MariaDB", plant.settings)
        fill_processed(driver, synthetic_processed(count))
        for framework in (_lightgbm, _pytorch, _keras):
            yield _compare(plant, driver, count, rounds, *framework())
        driver.close()


def _compare(
    plant: Plant, driver: Driver, count: int, rounds: int, name: str, what: str, how: str, trainer: Trainer, alone: Fit
) -> Table:
    fetches: list[float] = []
    reads: list[float] = []

    async def fetched() -> TrainingData:
        collector = SampleCollector(DATASET, [Part.TRAIN, Part.VALIDATION])
        async for page in plant.database.processed_pages(collector.columns, labelled=True, version=DATASET.version):
            collector.add(page.table)
        return collector.training_data()

    def ours() -> float:
        began = time.perf_counter()
        data = plant.run(fetched())
        fetches.append(time.perf_counter() - began)
        model = trainer.fit(data, lambda _: None)
        seconds = time.perf_counter() - began
        assert abs(len(data.train) / count - 0.7) < 0.02, len(data.train)
        assert np.isfinite(model.predict(data.validation.x[:100])).all()
        return seconds

    def direct() -> float:
        began = time.perf_counter()
        frame = driver.read_labelled()
        assert len(frame) == count
        x = frame[list(DATASET.feature_names)].to_numpy(dtype=np.float32)
        y = frame[DATASET.target].to_numpy(dtype=np.float32)
        del frame
        reads.append(time.perf_counter() - began)
        cut, end = int(0.7 * count), int(0.85 * count)
        train, validation = Samples(x[:cut], y[:cut]), Samples(x[cut:end], y[cut:end])
        alone(TrainingData(DATASET.feature_names, DATASET.target, train, validation))
        return time.perf_counter() - began

    plant.run(fetched())
    seconds = rounds_of({"ours": ours, f"{name} alone": direct}, rounds, warm_up=False)
    note = NOTE.format(count=count, what=what, how=how, fetch=float(np.median(fetches)), read=float(np.median(reads)))
    aims = {f"{name} alone": "<= 1.3 x the time"}
    return compared(f"Training with {name}", note, seconds, count=1000, unit="s", per="each", aims=aims)


def _lightgbm() -> tuple[Any, ...]:
    import lightgbm as lgb

    from complex_system.training.lightgbm import BOOSTING, LightGBMTrainer

    def alone(data: TrainingData) -> None:
        train = lgb.Dataset(data.train.x, data.train.y)
        validation = train.create_valid(data.validation.x, data.validation.y)
        lgb.train(BOOSTING, train, 100, valid_sets=[train, validation])

    how = "`lgb.train` with the same parameters and validation sets"
    return "LightGBM", "100 rounds", how, _prepared(LightGBMTrainer(TrainingParameters(boosting_rounds=100))), alone


def _pytorch() -> tuple[Any, ...]:
    import torch
    from torch import nn

    from complex_system.training.pytorch import PyTorchTrainer

    parameters = TrainingParameters(epochs=1)

    def alone(data: TrainingData) -> None:
        width = data.train.x.shape[1]
        network = nn.Sequential(nn.Linear(width, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
        order = torch.randperm(len(data.train))
        x, y = torch.from_numpy(data.train.x)[order], torch.from_numpy(data.train.y)[order, None]
        for xs, ys in zip(x.split(parameters.network_batch), y.split(parameters.network_batch), strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(xs), ys).backward()
            optimizer.step()
        with torch.inference_mode():
            nn.functional.mse_loss(network(torch.from_numpy(data.validation.x))[:, 0], torch.from_numpy(data.validation.y))

    how = f"slices of {parameters.network_batch} of a shuffled tensor, the same network and optimizer"
    return "PyTorch", "one epoch", how, _prepared(PyTorchTrainer(parameters)), alone


def _keras() -> tuple[Any, ...]:
    import keras

    from complex_system.training.tensorflow import HIDDEN, TensorFlowTrainer

    parameters = TrainingParameters(epochs=1)

    def alone(data: TrainingData) -> None:
        inputs = keras.Input((data.train.x.shape[1],))
        hidden = keras.layers.Dense(HIDDEN, activation="relu")(keras.layers.Dense(HIDDEN, activation="relu")(inputs))
        linear = keras.layers.Dense(1, use_bias=False)(inputs)
        model = keras.Model(inputs, keras.layers.Add()([keras.layers.Dense(1)(hidden), linear]))
        model.compile(optimizer=keras.optimizers.Adam(0.001), loss="mse")
        validation = (data.validation.x, data.validation.y)
        model.fit(
            data.train.x, data.train.y, batch_size=parameters.network_batch, epochs=1, validation_data=validation, verbose=0
        )

    how = f"`fit` of Keras, batches of {parameters.network_batch}, the same network and optimizer"
    return "Keras", "one epoch", how, _prepared(TensorFlowTrainer(parameters)), alone


def _prepared(trainer: Trainer) -> Trainer:
    trainer.prepare()
    return trainer


if __name__ == "__main__":
    main(["trainers"], quick=quick())
