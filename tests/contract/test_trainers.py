"""Our trainers keep the contract of ``complex_system.testing.trainers``, and what each framework does beyond it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from complex_system.domain.dataset import Dataset, Loss
from complex_system.domain.pages import processed_schema
from complex_system.errors import TrainingFailedError
from complex_system.evaluation.baselines import cross_validated_baseline
from complex_system.local.own_data import films
from complex_system.pipeline.pipeline import Pipeline
from complex_system.testing.data import lab_samples
from complex_system.testing.trainers import QUICK, Stop, TrainerContract, ignore
from complex_system.training.base import TrainedModel, Trainer, TrainingParameters, score
from complex_system.training.cross_validation import FewRecords, Keyed, TrainerFit, cross_validate
from complex_system.training.data import Matrix, Samples, TrainingData
from complex_system.training.lightgbm_search import Found
from complex_system.training.network import Epoch, train_epochs
from complex_system.training.onnx import export_onnx, run_onnx
from trainings import network_from_state

# TensorFlow and its helpers warn while they are imported, of things that are not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class ShippedTrainerCases(TrainerContract):
    """The suite, and what is asked of the trainers that ship."""

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


class TestLightGBM(ShippedTrainerCases):
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
        model = kind(TrainingParameters(boosting_rounds=150)).fit(data, ignore)
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
        model = kind(replace(QUICK, boosting_rounds=900)).fit(data, ignore)
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
        model = trainer.fit(replace(data, loss=loss), ignore)
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
        trainer = kind(replace(QUICK, boosting_rounds=150, lightgbm_trials=8, lightgbm_seconds=3600))
        models = [trainer.tuned(data, records if few else None).fit(data, ignore) for _ in range(2)]
        assert models[0].saved() == models[1].saved()
        assert models[0].parameters["search_trials"] == 8
        assert models[0].native.num_trees() == models[0].parameters["refit_rounds"]
        assert models[0].parameters["search_complete"] is True
        assert float(models[0].parameters["search_loss_ratio"]) < 1
        errors = [score(y[250:], model.predict(x[250:])).rmse for model in (models[0], trainer.fit(data, ignore))]
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
            assert kind(QUICK).tuned(small[0], None, stop).fit(small[0], ignore).parameters["num_leaves"] == 10
            monkeypatch.undo()

    def test_a_feature_just_above_a_threshold_goes_the_same_way_in_the_onnx_model(self) -> None:
        # Found with a table of 536 fuels, whose training ended with "The ONNX model differs from the native model by 0.012".
        from complex_system.training.lightgbm import LightGBMTrainer

        draw = np.random.default_rng(3)
        x = draw.random((600, 3)).astype(np.float32)
        y = (100 * x[:, 0] * (x[:, 1] > 0.5) + 10 * x[:, 2]).astype(np.float32)
        samples = Samples(x, y)
        model = LightGBMTrainer(QUICK).fit(TrainingData(("a", "b", "c"), "y", samples, samples), ignore)
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
    course = train_epochs(TrainingParameters(epochs=3), lambda: next(epochs), lambda: "weights", ignore)
    assert course.best_step == 2
    assert [progress.validation_rmse for progress in course.history] == [5, 9, 4]


class TestPyTorch(ShippedTrainerCases):
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
            kind(QUICK).fit(replace(data, train=Samples(data.train.x, broken)), ignore)


class TestPiecewise(ShippedTrainerCases):
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
        model = kind(QUICK).fit(data, ignore)
        assert model.parameters["bins"] == 0
        export_onnx(model, x)
        about = (model.feature_names, model.parameters, model.history, model.best_step)
        np.testing.assert_array_equal(kind().restored(model.saved(), *about).predict(x), model.predict(x))

    def test_a_kink_is_learnt_that_the_blueprints_network_smooths(self, kind: type[Trainer]) -> None:
        draw = np.random.default_rng(4)
        x = draw.uniform(0, 1, (900, 3)).astype(np.float32)
        y = (10 * np.abs(np.mod(4 * x[:, 0], 2) - 1) + x[:, 1]).astype(np.float32)
        data = TrainingData(("a", "b", "c"), "y", Samples(x[:600], y[:600]), Samples(x[600:750], y[600:750]))
        model = kind(TrainingParameters(epochs=40)).fit(data, ignore)
        assert score(y[750:], model.predict(x[750:])).r2 > 0.99


def torch_tensor(rows: Any) -> Any:
    import torch

    return torch.tensor(rows, dtype=torch.float32)


class TestTensorFlow(ShippedTrainerCases):
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
