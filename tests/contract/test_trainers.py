"""The contract of all trainers, whatever the framework. A new one is one more subclass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset, Loss
from complex_system.domain.laboratory import BEST_POSSIBLE
from complex_system.domain.pages import processed_schema
from complex_system.errors import TrainingFailedError
from complex_system.evaluation.baselines import cross_validated_baseline
from complex_system.local.own_data import films
from complex_system.pipeline.pipeline import Pipeline
from complex_system.training.base import Progress, TrainedModel, Trainer, TrainingParameters, score
from complex_system.training.cross_validation import FewRecords, Keyed, TrainerFit, cross_validate
from complex_system.training.data import Matrix, Samples, TrainingData
from complex_system.training.lightgbm_search import Found
from complex_system.training.network import Epoch, train_epochs
from complex_system.training.onnx import check_onnx, export_onnx, run_onnx
from samples import lab_samples
from trainings import network_from_state

# TensorFlow and its helpers warn while they are imported, of things that are not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

QUALITY = 14.7
"""Largest RMSE on the hold-out part after a training on the default 10,000 records."""
QUICK = TrainingParameters(seed=3, epochs=8, boosting_rounds=25)


class Stop(Exception):
    """Raised by a callback."""


def _ignore(_: Progress) -> None:
    pass


class TrainerContract(ABC):
    __test__ = False

    @pytest.fixture(scope="class")
    def kind(self) -> type[Trainer]:
        kind = self.trainer_class()
        kind().prepare()
        return kind

    @staticmethod
    @abstractmethod
    def trainer_class() -> type[Trainer]:
        """Imports the framework."""

    @pytest.fixture(scope="class")
    def trained(self, kind: type[Trainer]) -> TrainedModel:
        """A full training with the default parameters on the default number of records."""
        return kind(TrainingParameters()).fit(lab_samples(1, 10_000)[0], _ignore)

    @pytest.fixture(scope="class")
    def small(self) -> tuple[TrainingData, Samples]:
        return lab_samples(2, 1000)

    def test_a_full_training_comes_close_to_the_best_possible(self, trained: TrainedModel) -> None:
        _, holdout = lab_samples(1, 10_000)
        scores = score(holdout.y, trained.predict(holdout.x))
        assert scores.rmse <= QUALITY
        # A hold-out part of 740 samples scatters; an error far below the limit would mean that the truth leaked in.
        assert scores.rmse >= BEST_POSSIBLE.rmse - 1.5
        assert scores.r2 > 0.97

    def test_the_model_is_the_best_steps(self, trained: TrainedModel) -> None:
        data, _ = lab_samples(1, 10_000)
        best = min(trained.history, key=lambda progress: progress.validation_rmse)
        assert trained.best_step == best.step
        assert [progress.step for progress in trained.history] == list(range(1, len(trained.history) + 1))
        # Of the fit that stopped early: where the model was then trained on the validation part, too, the error there is smaller.
        measured = score(data.validation.y, trained.predicted_validation(data)).rmse
        assert measured == pytest.approx(best.validation_rmse, rel=1e-4)
        again = score(data.validation.y, trained.predict(data.validation.x)).rmse
        assert again == measured if trained.validation_predictions is None else again < measured

    def test_the_51_films_are_cross_validated_without_a_warning(self, kind: type[Trainer]) -> None:
        dataset = Dataset.shipped("films", target="Ausformung")
        few = FewRecords(dataset, 100)
        few.add(Pipeline(dataset).process(films(dataset)).to_arrow().cast(processed_schema(dataset)))
        records = few.keyed()
        assert records is not None
        trainer = kind(QUICK)
        told: list[int] = []

        data = TrainingData(dataset.feature_names, dataset.target, records.samples, records.samples)
        found = cross_validate(TrainerFit.of(trainer, data), records, lambda done, of: told.append(done), repeats=1)
        assert told == [1, 2, 3, 4, 5]
        assert found.records == 51
        assert 0 < found.rmse < 2 * cross_validated_baseline("mean", records).rmse

    def test_a_training_stops_early(self, trained: TrainedModel) -> None:
        last = trained.history[-1]
        assert trained.best_step <= last.step < last.steps

    def test_the_onnx_model_predicts_as_the_native_one(self, trained: TrainedModel) -> None:
        _, holdout = lab_samples(1, 10_000)
        onnx = export_onnx(trained, holdout.x)
        assert len(onnx) < 1_000_000
        # Values that no lab record has: beyond the declared ranges and all zero.
        check_onnx(trained, onnx, np.concatenate([holdout.x * 3 - 1, np.zeros((2, holdout.x.shape[1]), np.float32)]))

    def test_a_saved_model_that_is_read_back_is_the_same(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples]
    ) -> None:
        data, holdout = small
        trainer = kind(QUICK)
        model = trainer.fit(data, _ignore)
        about = (model.feature_names, model.parameters, model.history, model.best_step)
        again = trainer.restored(model.saved(), *about)
        assert type(again) is type(model)
        assert (again.feature_names, again.parameters, again.history, again.best_step) == about
        np.testing.assert_array_equal(again.predict(holdout.x), model.predict(holdout.x))
        check_onnx(model, again.to_onnx(), holdout.x)
        with pytest.raises(ValueError, match=r"."):
            trainer.restored(b"no model", *about)

    def test_the_onnx_model_of_another_model_is_refused(
        self, trained: TrainedModel, kind: type[Trainer], small: tuple[TrainingData, Samples]
    ) -> None:
        other = kind(QUICK).fit(small[0], _ignore)
        with pytest.raises(TrainingFailedError, match="differs from the native model"):
            check_onnx(trained, other.to_onnx(), small[1].x)
        with pytest.raises(TrainingFailedError, match="cannot be run"):
            check_onnx(trained, b"no model", small[1].x)

    def test_the_same_seed_gives_the_same_model(self, kind: type[Trainer], small: tuple[TrainingData, Samples]) -> None:
        data, holdout = small
        first, again = (kind(QUICK).fit(data, _ignore).predict(holdout.x) for _ in range(2))
        other = kind(replace(QUICK, seed=4)).fit(data, _ignore).predict(holdout.x)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_progress_is_reported_in_the_targets_unit(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples]
    ) -> None:
        reported: list[Progress] = []
        model = kind(QUICK).fit(small[0], reported.append)
        assert reported == model.history
        spread = float(small[0].train.y.std())
        assert all(0 < p.validation_rmse < 2 * spread and 0 < p.train_rmse < 2 * spread for p in reported)
        assert {type(p.validation_rmse) for p in reported} | {type(p.train_rmse) for p in reported} == {float}

    def test_an_exception_in_the_callback_ends_the_training(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples]
    ) -> None:
        seen = 0

        def stop(_: Progress) -> None:
            nonlocal seen
            seen += 1
            if seen == 3:
                raise Stop

        with pytest.raises(Stop):
            kind(QUICK).fit(small[0], stop)
        assert seen == 3

    def test_a_handful_of_samples_is_enough_to_train(self, kind: type[Trainer], small: tuple[TrainingData, Samples]) -> None:
        data, holdout = small
        few = replace(data, train=_head(data.train, 35), validation=_head(data.validation, 10))
        model = kind(QUICK).fit(few, _ignore)
        assert np.isfinite(model.predict(holdout.x)).all()
        export_onnx(model, holdout.x)

    def test_a_constant_target_is_learnt(self, kind: type[Trainer], small: tuple[TrainingData, Samples]) -> None:
        data, holdout = small
        same = replace(data, train=_constant(data.train), validation=_constant(data.validation))
        model = kind(replace(QUICK, epochs=40, boosting_rounds=40)).fit(same, _ignore)
        np.testing.assert_allclose(model.predict(holdout.x), 7.0, atol=0.5)

    @pytest.mark.parametrize("loss", ["absolute", "huber"])
    def test_a_declared_robust_loss_is_not_drawn_by_wrong_labels(self, kind: type[Trainer], loss: Loss) -> None:
        draw = np.random.default_rng(6)
        x = draw.uniform(0, 1, (1200, 3)).astype(np.float32)
        truth = (100 + 40 * x[:, 0] + 20 * (x[:, 1] > 0.5)).astype(np.float32)
        y = truth + draw.normal(0, 2, len(x)).astype(np.float32)
        wrong = draw.random(len(x)) < 0.04
        y[wrong] *= 10
        parts = [Samples(x[part], y[part]) for part in (slice(0, 800), slice(800, 1000))]
        data = TrainingData(("a", "b", "c"), "y", *parts)
        trainer = kind(TrainingParameters(epochs=60, boosting_rounds=200))
        squared, robust = (trainer.fit(each, _ignore) for each in (data, replace(data, loss=loss)))
        errors = [score(truth[1000:], model.predict(x[1000:])) for model in (squared, robust)]
        assert errors[1].rmse < 0.5 * errors[0].rmse
        assert errors[1].rmse < 8
        check_onnx(robust, export_onnx(robust, x), x)

    def test_the_run_says_on_which_device_a_network_was_trained(self, kind: type[Trainer], trained: TrainedModel) -> None:
        assert ("device" in trained.parameters) == kind.on_gpus  # trees stay on the CPU
        assert trained.parameters.get("device", "cpu") == "cpu" or str(trained.parameters["device"]).startswith("gpu (")

    def test_another_width_and_unit_need_no_change(self, kind: type[Trainer]) -> None:
        draw = np.random.default_rng(5)
        x = draw.normal(1000.0, 200.0, (1200, 3)).astype(np.float32)
        y = (1e6 + 50.0 * (x[:, 0] - x[:, 1])).astype(np.float32)
        data = TrainingData(("a [mm]", "b", "c"), "force", Samples(x[:900], y[:900]), Samples(x[900:], y[900:]))
        model = kind(TrainingParameters(epochs=60, boosting_rounds=300)).fit(data, _ignore)
        assert score(data.validation.y, model.predict(data.validation.x)).r2 > 0.9
        export_onnx(model, data.validation.x)

    def test_one_record_at_13_deviations_neither_spoils_the_training_nor_gets_a_prediction_far_outside(
        self, kind: type[Trainer]
    ) -> None:
        # Found with a table of 176 batches of a chemical process: the error was 3.4 times that of a default model.
        draw = np.random.default_rng(8)
        x = draw.normal(0, 1, (400, 4)).astype(np.float32)
        y = (10 * x[:, 0] + 4 * np.abs(x[:, 1]) + draw.normal(0, 1, 400)).astype(np.float32)
        x[[3, 390], 2] = 13
        data = TrainingData(("a", "b", "c", "d"), "y", Samples(x[:200], y[:200]), Samples(x[200:300], y[200:300]))
        model = kind(TrainingParameters(boosting_rounds=300, epochs=80)).fit(data, _ignore)
        predicted = model.predict(x[300:])
        assert score(y[300:], predicted).r2 > 0.9
        assert abs(predicted[90] - y[390]) < y.std()
        far = x[300:].copy()
        far[:, 2] = 1e6
        assert np.abs(model.predict(far)).max() < 2 * np.abs(y).max()
        check_onnx(model, export_onnx(model, far, y[300:]), far, y[300:])

    @pytest.mark.parametrize(("unit", "zero"), [(1e-4, 0.0), (1e4, 0.0), (0.1, 101_325.0), (0.0, 0.0)])
    def test_the_unit_of_the_target_does_not_matter_to_the_check(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples], unit: float, zero: float
    ) -> None:
        data, holdout = small
        parts = [
            Samples(part.x, (unit * part.y + zero).astype(np.float32)) for part in (data.train, data.validation, holdout)
        ]
        model = kind(QUICK).fit(replace(data, train=parts[0], validation=parts[1]), _ignore)
        onnx = export_onnx(model, parts[2].x, parts[2].y)
        if unit:
            wrong = Shifted(model, 0.01 * float(parts[2].y.std(dtype=np.float64)))
            with pytest.raises(TrainingFailedError, match="differs from the native model"):
                check_onnx(wrong, onnx, parts[2].x, parts[2].y)


class Shifted(TrainedModel):
    """Predicts by so much more than another model."""

    def __init__(self, model: TrainedModel, by: float) -> None:
        super().__init__(model.feature_names, model.parameters, model.history, model.best_step, model.native)
        self._model, self._by = model, by

    def predict(self, x: Matrix) -> Matrix:
        return (self._model.predict(x).astype(np.float64) + self._by).astype(np.float32)

    def saved(self) -> bytes:
        return self._model.saved()

    def to_onnx(self) -> bytes:
        return self._model.to_onnx()


def _head(samples: Samples, count: int) -> Samples:
    return Samples(samples.x[:count], samples.y[:count])


def _constant(samples: Samples) -> Samples:
    return Samples(samples.x, np.full_like(samples.y, 7.0))


class TestLightGBM(TrainerContract):
    __test__ = True

    @staticmethod
    def trainer_class() -> type[Trainer]:
        from complex_system.training.lightgbm import LightGBMTrainer

        return LightGBMTrainer

    def test_trees_have_ten_leaves_at_most(self, trained: TrainedModel) -> None:
        assert max(tree["num_leaves"] for tree in trained.native.dump_model()["tree_info"]) <= 10
        assert trained.parameters["learning_rate"] == 0.05

    @pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
    def test_it_stops_by_what_it_makes_small(self, kind: type[Trainer], loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("complex_system.training.lightgbm.REFIT_BELOW", 0)
        draw = np.random.default_rng(7)
        x = draw.uniform(0, 1, (400, 2)).astype(np.float32)
        y = (50 * x[:, 0] + draw.standard_t(2, 400) * 5).astype(np.float32)
        data = TrainingData(("a", "b"), "y", Samples(x[:250], y[:250]), Samples(x[250:], y[250:]), loss=loss)
        model = kind(TrainingParameters(boosting_rounds=150)).fit(data, _ignore)
        steps = [progress.step for progress in model.history]
        away = [np.abs(model.native.predict(x[250:], num_iteration=step) - y[250:]) for step in steps]
        alpha = float(model.parameters.get("alpha", 0))
        losses = {
            "squared": [np.mean(each**2) for each in away],
            "absolute": [np.mean(each) for each in away],
            "huber": [np.mean(np.where(each <= alpha, each**2 / 2, alpha * (each - alpha / 2))) for each in away],
        }
        assert model.best_step == steps[int(np.argmin(losses[loss]))]
        # What comes after the best step is not in the model.
        until = [progress.validation_rmse for progress in model.history][: model.best_step]
        assert until == pytest.approx(np.sqrt(losses["squared"]).tolist()[: model.best_step])

    def test_the_model_is_trained_again_on_both_parts(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples]
    ) -> None:
        import lightgbm as lgb

        data, holdout = small
        model = kind(replace(QUICK, boosting_rounds=900)).fit(data, _ignore)
        both = [np.concatenate([getattr(part, axis) for part in (data.train, data.validation)]) for axis in "xy"]
        settings = {name: value for name, value in model.parameters.items() if "rounds" not in name}
        rounds = round(model.best_step * len(both[1]) / len(data.train))
        again = lgb.train(settings, lgb.Dataset(*both), rounds)
        np.testing.assert_array_equal(model.predict(holdout.x), again.predict(holdout.x).astype(np.float32))
        assert model.native.num_trees() == model.parameters["refit_rounds"] == rounds

    @pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
    @pytest.mark.parametrize("boosting", ["rf", "gbdt"])
    def test_a_forest_and_random_thresholds_are_exported(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples], boosting: str, loss: Loss
    ) -> None:
        data, holdout = small
        trainer: Any = kind(QUICK)
        trainer.found = Found({"boosting": boosting, "extra_trees": True, "feature_fraction_bynode": 0.5, "num_leaves": 40})
        model = trainer.fit(replace(data, loss=loss), _ignore)
        onnx = export_onnx(model, holdout.x, holdout.y)
        np.testing.assert_allclose(run_onnx(onnx, [holdout.x])[0][:, 0], model.predict(holdout.x), rtol=1e-5, atol=1e-3)
        assert ("average_output" in model.native.model_to_string()) is (boosting == "rf")
        assert model.parameters["extra_trees"] is True

    @pytest.mark.parametrize("few", [True, False])
    def test_a_search_finds_what_suits_the_data_and_finds_it_again(self, kind: type[Trainer], few: bool) -> None:
        draw = np.random.default_rng(9)
        x = draw.normal(0, 1, (300, 4)).astype(np.float32)
        y = (x @ [4, 3, 2, 1] + draw.normal(0, 0.1, 300)).astype(np.float32)  # leaves of 10 and depth 4 are few for a plane
        records = Keyed(tuple(map(str, range(300))), Samples(x, y))
        data = TrainingData(("a", "b", "c", "d"), "y", Samples(x[:200], y[:200]), Samples(x[200:250], y[200:250]))
        trainer = kind(replace(QUICK, boosting_rounds=150, lightgbm_trials=8, lightgbm_seconds=60))
        models = [trainer.tuned(data, records if few else None).fit(data, _ignore) for _ in range(2)]
        assert models[0].saved() == models[1].saved()
        assert models[0].parameters["search_trials"] == 8
        assert models[0].native.num_trees() == models[0].parameters["refit_rounds"]
        assert models[0].parameters["search_complete"] is True
        assert float(models[0].parameters["search_loss_ratio"]) < 1
        errors = [score(y[250:], model.predict(x[250:])).rmse for model in (models[0], trainer.fit(data, _ignore))]
        assert errors[0] < errors[1]

    def test_a_search_ends_with_its_service_and_is_not_made_where_it_would_try_nothing(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop() -> None:
            raise Stop

        with pytest.raises(Stop):
            kind(QUICK).tuned(small[0], None, stop)
        assert not kind(replace(QUICK, lightgbm_trials=0)).searches
        for limit, size in (("SEARCH_BELOW", 100), ("SEARCH_FROM", 10_000)):
            monkeypatch.setattr(f"complex_system.training.lightgbm.{limit}", size)
            assert kind(QUICK).tuned(small[0], None, stop).fit(small[0], _ignore).parameters["num_leaves"] == 10
            monkeypatch.undo()

    def test_a_feature_just_above_a_threshold_goes_the_same_way_in_the_onnx_model(self) -> None:
        # Found with a table of 536 fuels, whose training ended with "The ONNX model differs from the native model by 0.012".
        from complex_system.training.lightgbm import LightGBMTrainer

        draw = np.random.default_rng(3)
        x = draw.random((600, 3)).astype(np.float32)
        y = (100 * x[:, 0] * (x[:, 1] > 0.5) + 10 * x[:, 2]).astype(np.float32)
        samples = Samples(x, y)
        model = LightGBMTrainer(QUICK).fit(TrainingData(("a", "b", "c"), "y", samples, samples), _ignore)
        text = model.native.model_to_string()
        thresholds = [
            float(each) for line in text.splitlines() if line.startswith("threshold=") for each in line[10:].split()
        ]
        near = np.array(thresholds, dtype=np.float32)
        assert any(float(above) > exact for above, exact in zip(near, thresholds, strict=True))
        rows = np.stack([near, near[::-1], np.roll(near, 1)], axis=1)
        onnx = export_onnx(model, rows)
        np.testing.assert_allclose(run_onnx(onnx, [rows])[0][:, 0], model.predict(rows), rtol=1e-5, atol=1e-4)


def test_networks_stop_by_what_they_make_small() -> None:
    epochs = iter([Epoch(1, 5, 3), Epoch(1, 9, 2), Epoch(1, 4, 2.5)])
    course = train_epochs(TrainingParameters(epochs=3), lambda: next(epochs), lambda: "weights", _ignore)
    assert course.best_step == 2
    assert [progress.validation_rmse for progress in course.history] == [5, 9, 4]


class TestPyTorch(TrainerContract):
    __test__ = True

    @staticmethod
    def trainer_class() -> type[Trainer]:
        from complex_system.training.pytorch import PyTorchTrainer

        return PyTorchTrainer

    def test_the_state_dict_holds_the_blueprints_network_and_gives_it_back(self, trained: TrainedModel) -> None:
        from complex_system.training.pytorch import PyTorchModel, state_bytes

        shapes = [tuple(t.shape) for name, t in trained.native.state_dict().items() if name.endswith("weight")]
        assert shapes == [(10, 15), (10, 10), (1, 10)]
        network = network_from_state(state_bytes(trained))
        again = PyTorchModel(trained.feature_names, {}, [], 1, network)
        _, holdout = lab_samples(1, 10_000)
        np.testing.assert_array_equal(again.predict(holdout.x), trained.predict(holdout.x))

    def test_a_training_that_diverges_says_so(self, kind: type[Trainer], small: tuple[TrainingData, Samples]) -> None:
        data = small[0]
        broken: Matrix = np.full_like(data.train.y, np.nan)
        with pytest.raises(TrainingFailedError, match="never finite"):
            kind(QUICK).fit(replace(data, train=Samples(data.train.x, broken)), _ignore)


class TestPiecewise(TrainerContract):
    __test__ = True

    @staticmethod
    def trainer_class() -> type[Trainer]:
        from complex_system.training.pytorch import PiecewiseTrainer

        return PiecewiseTrainer

    def test_an_encoding_says_how_full_each_bin_is(self) -> None:
        from complex_system.training.pytorch import encoding_of

        draw = np.random.default_rng(1)
        binary = (draw.random(41) < 0.5).astype(np.float32)
        x = np.stack([np.linspace(-1, 1, 41), binary, np.zeros(41)], axis=1).astype(np.float32)
        encoding = encoding_of(x)
        assert encoding.feature.tolist() == [0, 0]  # 41 samples make two bins; of two values, and of one, there are none
        rows = torch_tensor([[-3, 5, 6], [-1, 0, 0], [-0.5, 0, 0], [0, 0, 0], [0.25, 0, 0], [9, 0, 0]])
        encoded = encoding(rows).numpy()
        np.testing.assert_array_equal(encoded[:, :3], rows.numpy())
        np.testing.assert_allclose(encoded[:, 3:], [[0, 0], [0, 0], [0.5, 0], [1, 0], [1, 0.25], [1, 1]], atol=1e-6)

    def test_the_members_differ_and_their_mean_is_predicted(self, trained: TrainedModel) -> None:
        _, holdout = lab_samples(1, 10_000)
        network = copy.deepcopy(trained.native)
        assert trained.parameters["members"] == 4
        mean = trained.predict(holdout.x)
        members = network.train()(torch_tensor(holdout.x)).detach().numpy()
        assert members.shape == (len(holdout), 4)
        np.testing.assert_allclose(members.mean(axis=1), mean, rtol=1e-5)
        errors = [score(holdout.y, each).rmse for each in members.T]
        assert len({round(error, 3) for error in errors}) == 4
        assert score(holdout.y, mean).rmse < np.mean(errors)

    def test_features_of_two_values_have_no_bins(self, kind: type[Trainer]) -> None:
        x = (np.random.default_rng(2).random((60, 3)) < 0.3).astype(np.float32)
        data = TrainingData(("a", "b", "c"), "y", Samples(x[:40], x[:40, 0]), Samples(x[40:], x[40:, 0]))
        model = kind(QUICK).fit(data, _ignore)
        assert model.parameters["bins"] == 0
        export_onnx(model, x)
        about = (model.feature_names, model.parameters, model.history, model.best_step)
        np.testing.assert_array_equal(kind().restored(model.saved(), *about).predict(x), model.predict(x))

    def test_a_kink_is_learnt_that_the_blueprints_network_smooths(self, kind: type[Trainer]) -> None:
        draw = np.random.default_rng(4)
        x = draw.uniform(0, 1, (900, 3)).astype(np.float32)
        y = (10 * np.abs(np.mod(4 * x[:, 0], 2) - 1) + x[:, 1]).astype(np.float32)
        data = TrainingData(("a", "b", "c"), "y", Samples(x[:600], y[:600]), Samples(x[600:750], y[600:750]))
        model = kind(TrainingParameters(epochs=40)).fit(data, _ignore)
        assert score(y[750:], model.predict(x[750:])).r2 > 0.99


def torch_tensor(rows: Any) -> Any:
    import torch

    return torch.tensor(rows, dtype=torch.float32)


class TestTensorFlow(TrainerContract):
    __test__ = True

    @staticmethod
    def trainer_class() -> type[Trainer]:
        from complex_system.training.tensorflow import TensorFlowTrainer

        return TensorFlowTrainer

    def test_the_members_are_trained_in_one_graph_with_a_linear_path(self, trained: TrainedModel) -> None:
        assert trained.parameters["members"] == 4
        shapes = [tuple(weight.shape) for weight in trained.native.get_layer("members").trainable_variables]
        assert sorted(shapes) == sorted([(15, 128), (128,), (4, 32, 32), (4, 32), (4, 32), (4,), (15, 4)])

    def test_a_model_of_an_earlier_release_that_waits_in_the_outbox_is_restored(
        self, kind: type[Trainer], small: tuple[TrainingData, Samples]
    ) -> None:
        import keras

        from complex_system.training.tensorflow import TensorFlowModel

        layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "relu"), keras.layers.Dense(1)]
        scaled = [keras.layers.Rescaling([0.5] * 15, [0.1] * 15), *layers, keras.layers.Rescaling(2.0, 1.0)]
        model = TensorFlowModel(small[0].feature_names, {}, [], 1, keras.Sequential([keras.Input((15,)), *scaled]))
        again = kind().restored(model.saved(), model.feature_names, {}, [], 1)
        np.testing.assert_array_equal(again.predict(small[1].x), model.predict(small[1].x))
