"""TensorFlow and Keras: the blueprint's network. The only module that imports them; import it where it is needed."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from complex_system.domain.dataset import Loss
from complex_system.training.base import Parameter, Progress, ProgressCallback, TrainedModel, Trainer, huber_threshold
from complex_system.training.data import Matrix, TrainingData
from complex_system.training.network import (
    CLIP,
    Epoch,
    Pace,
    Scaling,
    learning_rate,
    members_for,
    network_parameters,
    train_epochs,
)
from complex_system.training.onnx import with_declared_names
from complex_system.training.peers import ALONE, Peers

HIDDEN = 32
"""Units of a hidden layer of a member."""
L2 = 2e-3
THREADS = 1  # the networks are small, and four trainers share a machine


class TensorFlowModel(TrainedModel):
    """A Keras model: scaling, the network, scaling back."""

    flavor: ClassVar[str] = "tensorflow"

    @override
    def predict(self, x: Matrix) -> Matrix:
        # Calling the model takes 4 ms, its predict() 75 ms.
        predicted: Matrix = self.native(tf.constant(x, dtype=tf.float32), training=False).numpy()[:, 0]
        return predicted

    @override
    def saved(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            self.native.save(path)
            return path.read_bytes()

    @override
    def to_onnx(self) -> bytes:
        import onnx

        logging.getLogger("tf2onnx").setLevel(logging.ERROR)
        # Keras exports only what was called, and a model that comes from a worker of a cluster was not called here.
        self.native(tf.zeros((1, self.native.input_shape[-1])), training=False)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.onnx"
            self.native.export(str(path), format="onnx", verbose=False)
            return with_declared_names(onnx.load(str(path)))


class TensorFlowTrainer(Trainer):
    """Adam on the declared loss, an epoch as one graph, averaged weights, early stopping.

    An epoch of 3,500 samples takes Keras's ``fit`` 130 to 200 ms, and the same as one ``tf.function`` 20 ms.
    """

    framework: ClassVar[str] = "tensorflow"
    on_gpus: ClassVar[bool] = True

    @override
    def prepare(self) -> None:
        keras.config.disable_interactive_logging()  # else predict() draws progress bars on the terminal
        try:
            tf.config.threading.set_intra_op_parallelism_threads(THREADS)
            tf.config.threading.set_inter_op_parallelism_threads(THREADS)
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)  # else all of its memory is taken, and others get none
            if self.parameters.device == "cpu":
                tf.config.set_visible_devices([], "GPU")
        except RuntimeError:
            logging.getLogger(__name__).debug("TensorFlow has started before; its threads and devices stay as they are")
        tf.config.experimental.enable_tensor_float_32_execution(False)  # ONNX has no such products, and is compared
        import onnx
        import onnxruntime

        del onnx, onnxruntime

    @override
    def fit(self, data: TrainingData, on_progress: ProgressCallback, peers: Peers = ALONE) -> TensorFlowModel:
        assert peers.count == 1
        scaling = Scaling.of(data.train, data.loss)
        width, members = len(data.feature_names), members_for(len(data.train))
        core = _core(width, members, self.parameters.seed)
        epochs = _Epochs(self, core, scaling, data)
        course = train_epochs(self.parameters, epochs.one, epochs.weights, on_progress)
        assert course.best_weights is not None
        core.set_weights(course.best_weights)
        about: dict[str, Parameter] = {
            "layers": f"{width}-{HIDDEN}-{HIDDEN}-1",
            "members": members,
            "l2": L2,
            "device": _device_name(),
        }
        parameters = network_parameters(self.parameters, data.loss, epochs.pace, HIDDEN, **about)
        native = _scaled_model(core, scaling)
        return TensorFlowModel(data.feature_names, parameters, course.history, course.best_step, native)

    @override
    def restored(
        self,
        saved: bytes,
        feature_names: tuple[str, ...],
        parameters: Mapping[str, Parameter],
        history: list[Progress],
        best_step: int,
    ) -> TensorFlowModel:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(saved)
            try:
                native = keras.models.load_model(path, compile=False, safe_mode=True)
            except (OSError, TypeError, zipfile.BadZipFile) as error:
                raise ValueError(str(error)) from error
        return TensorFlowModel(feature_names, parameters, history, best_step, native)


def _device_name() -> str:
    """Return what is logged of the device that TensorFlow computes on: the first GPU that it sees, or the CPU."""
    gpus = tf.config.get_visible_devices("GPU")
    return f"gpu ({tf.config.experimental.get_device_details(gpus[0]).get('device_name', '')})" if gpus else "cpu"


def _core(width: int, members: int, seed: int) -> Any:
    """Make networks for scaled features, with a linear path beside their hidden layers; they predict scaled targets, (n, members).

    They are trained in one graph: their first layers are one, and a product over all members is one operation.
    """

    def options(inputs: int, outputs: int, place: int) -> dict[str, Any]:
        limit = math.sqrt(6 / (inputs + outputs))  # Glorot's; Keras would count the units of all members
        return {
            "kernel_initializer": keras.initializers.RandomUniform(-limit, limit, seed=seed + place),
            "kernel_regularizer": keras.regularizers.L2(L2),
        }

    units = HIDDEN
    inputs = keras.Input((width,))
    first = keras.layers.Dense(members * units, activation="relu", **options(width, units, 0))(inputs)
    second = keras.layers.EinsumDense(
        "nmh,mhk->nmk", (members, units), bias_axes="mk", activation="relu", **options(units, units, 1)
    )(keras.layers.Reshape((members, units))(first))
    last = keras.layers.EinsumDense("nmh,mh->nm", (members,), bias_axes="m", **options(units, 1, 2))(second)
    linear = keras.layers.Dense(
        members, use_bias=False, kernel_initializer="zeros", kernel_regularizer=keras.regularizers.L2(L2), name="linear"
    )(inputs)
    return keras.Model(inputs, keras.layers.Add()([last, linear]), name="members")


def _scaled_model(core: Any, scaling: Scaling) -> Any:
    """Put the networks between two ``Rescaling`` layers: the model takes features and predicts their mean in the target's unit.

    Keras has ``Normalization`` for the first of them, but the ONNX export makes its constants inputs of the graph.
    """
    factor = 1.0 / scaling.feature_scale.astype(np.float64)
    offset = -scaling.feature_mean.astype(np.float64) * factor
    inputs = keras.Input((len(factor),), name="features")
    scaled = keras.layers.Rescaling(factor.tolist(), offset.tolist(), name="feature_scaling")(inputs)
    scaled = keras.ops.clip(scaled, -CLIP, CLIP)
    mean = keras.ops.mean(core(scaled), axis=1, keepdims=True)
    outputs = keras.layers.Rescaling(scaling.target_scale, scaling.target_mean, name="target_scaling")(mean)
    model = keras.Model(inputs, outputs, name="regression")
    model(tf.zeros((1, len(factor))))  # the export needs a model that was called
    return model


class _Epochs:
    """The epochs of one training. The average of the weights is evaluated and kept, not the weights themselves."""

    def __init__(self, trainer: TensorFlowTrainer, core: Any, scaling: Scaling, data: TrainingData) -> None:
        self._core = core
        self._averaged = keras.models.clone_model(core)
        self._averaged.set_weights(core.get_weights())
        self._scaling = scaling
        self._train, self._validation = (
            [tf.constant(part) for part in scaling.apply(samples)] for samples in (data.train, data.validation)
        )
        self.pace = Pace.of(len(data.train), trainer.parameters.network_batch)
        self._order = np.random.default_rng(trainer.parameters.seed)
        self._optimizer = keras.optimizers.Adam(learning_rate(trainer.parameters, HIDDEN))
        self._optimizer.build(core.trainable_variables)
        self._steps = tf.Variable(0.0)
        self._loss = _loss(data.loss, huber_threshold(data.train.y) / scaling.target_scale)
        self._graph = tf.function(self._epoch)

    def one(self) -> Epoch:
        """Go over all training samples in a new order, several times where they are few."""
        order = np.concatenate([self._order.permutation(len(self._train[0])) for _ in range(self.pace.passes)])
        train_mse, validation_mse, loss = map(float, self._graph(tf.constant(order)))
        return Epoch(self._scaling.rmse(train_mse), self._scaling.rmse(validation_mse), loss)

    def weights(self) -> list[Matrix]:
        copied: list[Matrix] = self._averaged.get_weights()
        return copied

    def _epoch(self, order: Any) -> tuple[Any, Any, Any]:
        x, y = (tf.gather(part, order) for part in self._train)
        weights, averaged = self._core.trainable_variables, self._averaged.trainable_variables
        total = tf.shape(order)[0]
        squares = tf.constant(0.0)
        for start in tf.range(0, total, self.pace.batch):
            xs, ys = x[start : start + self.pace.batch], y[start : start + self.pace.batch]
            with tf.GradientTape() as tape:
                error = self._core(xs, training=True) - ys
                # The sum over the members, so that each is trained as it would be alone.
                loss = error.shape[1] * self._loss(error) + tf.add_n(self._core.losses)
            self._optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            self._steps.assign_add(1.0)
            share = 1.0 - tf.minimum(
                self.pace.averaging, self._steps / (self._steps + 10.0)
            )  # Pace.averaging_at, in the graph
            for mean, weight in zip(averaged, weights, strict=True):
                mean.assign_add(share * (weight - mean))
            squares += tf.reduce_mean(tf.square(tf.reduce_mean(error, axis=1))) * tf.cast(tf.shape(ys)[0], tf.float32)
        validation_x, validation_y = self._validation
        error = tf.reduce_mean(self._averaged(validation_x, training=False), axis=1, keepdims=True) - validation_y
        return squares / tf.cast(total, tf.float32), tf.reduce_mean(tf.square(error)), self._loss(error)


def _loss(loss: Loss, threshold: float) -> Callable[[Any], Any]:
    """Return a loss of errors in the unit of the scaled target, as is Huber's ``threshold``."""
    if loss == "absolute":
        return lambda error: tf.reduce_mean(tf.abs(error))
    if loss == "squared":
        return lambda error: tf.reduce_mean(tf.square(error))

    def huber(error: Any) -> Any:
        size = tf.abs(error)
        beyond = threshold * (size - 0.5 * threshold)
        return tf.reduce_mean(tf.where(size <= threshold, 0.5 * tf.square(error), beyond))

    return huber
