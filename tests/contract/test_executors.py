"""The contract of executors, and the results of searches and cross-validations on clusters of several sizes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from complex_system.errors import ClusterUnavailableError
from complex_system.training.cluster import RayExecutor
from complex_system.training.cross_validation import TrainerFit, out_of_fold
from complex_system.training.executor import SEQUENTIAL, Executor, never
from complex_system.training.lightgbm import LightGBMTrainer
from ray_nodes import SEARCHED, Nodes, Noted, NotedFit, bent, ray_nodes, refused, squared, visible_gpus, wait_for
from trainings import PIECEWISE, trainer

# Of Ray, of its use of pydantic 1; of TensorFlow while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Stop(Exception):
    """Raised by a look."""


class ExecutorContract:
    __test__ = False

    def test_results_come_in_the_order_of_the_items(self, executor: Executor) -> None:
        with executor.tasks(squared) as run:
            assert list(run(range(7), never)) == [0, 1, 4, 9, 16, 25, 36]
            assert list(run([], never)) == []
            first, second = run([3], never), run([4], never)
            assert (*second, *first) == (16, 9)

    def test_an_exception_is_raised_where_its_result_is_asked_for(self, executor: Executor) -> None:
        with executor.tasks(refused) as run:
            results = run(range(4), never)
            assert [next(results), next(results)] == [0, 1]
            with pytest.raises(ValueError, match=r"^not 2$"):
                next(results)

    def test_a_look_ends_what_runs(self, executor: Executor, tmp_path: Path) -> None:
        ended = threading.Event()

        def look() -> None:
            if ended.is_set():
                raise Stop

        with executor.tasks(Noted(tmp_path)) as run:
            results = run(range(4), look)
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(next, results)
                wait_for(lambda: Noted(tmp_path).begun)
                ended.set()
                with pytest.raises(Stop):
                    waiting.result()
        (tmp_path / "go").touch()
        with executor.tasks(squared) as run:
            assert list(run([2], never)) == [4]
        assert {item for item, _ in Noted(tmp_path).begun} <= {"0", "1"}  # nothing began after the end

    def test_results_that_nobody_wants_are_given_up(self, executor: Executor, tmp_path: Path) -> None:
        # The others wait: none is over before it is given up.
        with executor.tasks(Noted(tmp_path, free=(0, 1000))) as run:
            results = run(range(200), never)
            assert next(results) == 0
            results.close()
            assert list(run([1000], never)) == [1000]
        assert len(Noted(tmp_path).begun) < 100


class TestSequential(ExecutorContract):
    __test__ = True

    @pytest.fixture
    def executor(self) -> Executor:
        return SEQUENTIAL


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes() as started:
        yield started


@pytest.mark.long
@pytest.mark.timeout(600)
class TestRay(ExecutorContract):
    __test__ = True

    @pytest.fixture
    def executor(self, nodes: Nodes) -> Iterator[Executor]:
        nodes.use(2)
        made = RayExecutor(nodes.parameters, LightGBMTrainer().prepare)
        yield made
        made.close()

    def test_a_search_and_a_cross_validation_give_the_same_with_any_number_of_workers(self, nodes: Nodes) -> None:
        data, few = bent(150)

        def found(executor: Executor) -> tuple[object, ...]:
            tuned = [LightGBMTrainer(SEARCHED).tuned(data, each, executor=executor) for each in (few, None)]
            assert all(each.found is not None and each.found.in_time for each in tuned)
            crossed = out_of_fold(TrainerFit.of(tuned[0], data), few, executor=executor)
            return tuned[0].found, tuned[1].found, crossed.predictions.tobytes()

        expected = found(SEQUENTIAL)
        for workers in (1, 2, 3):
            nodes.use(workers)
            executor = RayExecutor(nodes.parameters, LightGBMTrainer().prepare)
            assert found(executor) == expected, workers
            executor.close()

    @pytest.mark.parametrize("framework", ["pytorch", PIECEWISE, "tensorflow"])
    def test_a_network_is_cross_validated_to_the_same_predictions(self, nodes: Nodes, framework: str) -> None:
        data, few = bent(150)
        network = trainer(framework, replace(SEARCHED, epochs=3))
        expected = out_of_fold(TrainerFit.of(network, data), few, repeats=1)
        nodes.use(2)
        executor = RayExecutor(nodes.parameters, network.prepare)
        told: list[int] = []
        found = out_of_fold(
            TrainerFit.of(network, data), few, lambda done, of: told.append(done), repeats=1, executor=executor
        )
        executor.close()
        assert told == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(found.predictions, expected.predictions, rtol=1e-6, atol=1e-6 * few.samples.y.std())

    def test_a_task_sees_the_gpus_that_it_was_given_and_no_others(self, nodes: Nodes) -> None:
        nodes.use(1)
        nodes.use(2, num_gpus=2)
        for on_gpus, gpus, visible in ((True, 1.0, 1), (False, 1.0, 0), (True, 0.0, 0)):
            executor = RayExecutor(replace(nodes.parameters, gpus=gpus), LightGBMTrainer().prepare, on_gpus=on_gpus)
            with executor.tasks(visible_gpus) as run:
                assert {len(each) for each in run(range(6), never)} == {visible}, (on_gpus, gpus)
            executor.close()
        nodes.use(1)

    def test_a_worker_that_is_killed_changes_nothing(self, nodes: Nodes, tmp_path: Path) -> None:
        data, few = bent(150)
        fit, noted = TrainerFit.of(LightGBMTrainer(SEARCHED), data), Noted(tmp_path)
        nodes.use(2)
        executor = RayExecutor(nodes.parameters, LightGBMTrainer().prepare)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(out_of_fold, NotedFit(fit, noted), few, executor=executor)
            wait_for(lambda: len({worker for _, worker in noted.begun}) == 2, 60)
            nodes.kill()
            (tmp_path / "go").touch()
            found = running.result(120)
        executor.close()
        assert len(noted.begun) > len({item for item, _ in noted.begun})  # what the worker had begun was begun again
        np.testing.assert_array_equal(found.predictions, out_of_fold(fit, few).predictions)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_head_that_is_lost_ends_the_tasks_and_not_the_process(tmp_path: Path) -> None:
    with ray_nodes() as nodes:
        nodes.use(1)
        executor = RayExecutor(nodes.parameters, LightGBMTrainer().prepare)
        with executor.tasks(Noted(tmp_path)) as run, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, run(range(3), never))
            wait_for(lambda: Noted(tmp_path).begun, 120)
            nodes.kill_head()
            with pytest.raises(ClusterUnavailableError, match="head of the Ray cluster at .* is lost"):
                waiting.result(60)
        executor.close()
