"""The connection to a Ray cluster: what is said where there is none. Clusters themselves are in tests/integration/test_cluster.py."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from certificates import write_certificates
from complex_system.errors import ClusterUnavailableError
from complex_system.settings import Settings
from complex_system.training import ray_head
from complex_system.training.cluster import ClusterParameters, connected
from complex_system.training.distributed import _Desk


def test_without_an_address_there_is_no_cluster() -> None:
    assert not ClusterParameters.of(Settings()).is_set


def test_a_worker_asks_for_what_is_set_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ClusterParameters.of(Settings()).resources == {"CPU": 1.0}
    monkeypatch.setenv("COMPLEX_SYSTEM_RAY_CPUS", "2")
    monkeypatch.setenv("COMPLEX_SYSTEM_RAY_GPUS", "0.5")
    monkeypatch.setenv("COMPLEX_SYSTEM_RAY_MEMORY", "1000000")
    cluster = ClusterParameters.of(Settings())
    assert cluster.resources == {"CPU": 2.0, "GPU": 0.5, "memory": 1_000_000.0}


@pytest.mark.parametrize(
    ("address", "message"),
    [("auto", "host:port of the cluster's head is expected"), ("127.0.0.1:1", "Nothing answers at 127.0.0.1:1")],
)
def test_an_address_that_leads_nowhere_is_an_error_that_names_the_setting(address: str, message: str) -> None:
    with pytest.raises(ClusterUnavailableError, match=message) as caught, connected(ClusterParameters(address), patience=0):
        pass
    assert "COMPLEX_SYSTEM_RAY_ADDRESS" in str(caught.value)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ClusterUnavailableError, match=r"complex_system.*whl\[cluster\]"),
        connected(ClusterParameters("127.0.0.1:1")),
    ):
        pass


def test_ray_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, complex_system.training.cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_search_and_a_cross_validation_in_the_service_import_nothing_of_ray() -> None:
    code = """
import sys
import numpy as np
import complex_system.service_layer.training.service
from complex_system.training.base import TrainingParameters
from complex_system.training.cross_validation import Keyed, TrainerFit, out_of_fold
from complex_system.training.data import Samples, TrainingData
from complex_system.training.lightgbm import LightGBMTrainer
x = np.random.default_rng(1).normal(size=(120, 2)).astype(np.float32)
samples = Samples(x, x[:, 0])
data = TrainingData(("a", "b"), "y", samples, samples)
trainer = LightGBMTrainer(TrainingParameters(boosting_rounds=3, lightgbm_trials=2)).tuned(data, None)
out_of_fold(TrainerFit.of(trainer, data), Keyed(tuple(f"key {i}" for i in range(120)), samples))
sys.exit(any(name.partition(".")[0] == "ray" for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_head_that_has_ended_is_lost_also_when_another_one_is_started_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_head, "_HEAD_PAUSE", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        watch = ray_head.HeadWatch(address)
        watch.look()
    with pytest.raises(ClusterUnavailableError, match="is lost"):
        watch.look()


def test_a_time_in_which_nobody_looked_is_not_one_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(ray_head.time, "monotonic", lambda: now)
    monkeypatch.setattr(ray_head, "_connection", _times_out)
    watch = ray_head.HeadWatch("head:6379")
    now += 100.0
    watch.look()
    now += 2.0
    watch.look()
    now += 24.0
    with pytest.raises(ClusterUnavailableError, match="is lost"):
        watch.look()


def test_a_head_that_was_replaced_while_nobody_looked_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(ray_head.time, "monotonic", lambda: now)
    monkeypatch.setattr(ray_head, "_connection", lambda address: socket.socket())
    watch = ray_head.HeadWatch("head:6379", lambda: False)
    now += 2.0
    watch.look()
    now += 100.0
    with pytest.raises(ClusterUnavailableError, match="is lost"):
        watch.look()


def test_waiting_for_a_cluster_ends_with_the_training() -> None:
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), connected(ClusterParameters("127.0.0.1:1"), look=look):
        pass


@contextmanager
def head_at(bound: socket.socket | None = None, certificates: Path | None = None) -> Iterator[str]:
    """The address of what greets as gRPC does, with TLS where there are certificates; on a bound socket, where one is given."""
    context = None
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                if context is None and connection.recv(3, socket.MSG_PEEK) != b"PRI":
                    continue
                with context.wrap_socket(connection, server_side=True) if context else connection as plain:
                    plain.recv(64)
                    plain.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))

    with bound or socket.create_server(("127.0.0.1", 0)) as listening:
        listening.listen()
        thread = threading.Thread(target=serve, args=[listening])
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def tls_variables(monkeypatch: pytest.MonkeyPatch, folder: Path, authority: str = "ca.pem") -> None:
    names = {"CERT": "cert.pem", "KEY": "key.pem"}
    monkeypatch.setenv("RAY_USE_TLS", "1")
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(folder / authority))
    for name, file in names.items():
        monkeypatch.setenv(f"RAY_TLS_SERVER_{name}", str(folder / file))


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, too, a head says what it is: one that is slow is not judged."""
    monkeypatch.setattr(ray_head, "CONNECT_SECONDS", 120.0)


@pytest.mark.usefixtures("_patient")
def test_a_trainer_without_tls_is_told_which_variables_the_cluster_needs(tmp_path: Path) -> None:
    with head_at(certificates=write_certificates(tmp_path)) as address:
        fault = ray_head.fault_of(address)
    assert f"The Ray cluster at {address} uses TLS, and this trainer does not" in fault
    assert "RAY_USE_TLS=1, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY, RAY_TLS_CA_CERT" in fault


@pytest.mark.usefixtures("_patient")
def test_a_trainer_with_tls_is_told_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own, others = tmp_path / "own", tmp_path / "others"
    for folder in (own, others):
        folder.mkdir()
        write_certificates(folder)
    tls_variables(monkeypatch, own)
    with head_at(certificates=own) as address:
        assert ray_head.fault_of(address) == ""
    with head_at() as address:
        assert "it does not use TLS" in ray_head.fault_of(address)
    with head_at(certificates=own) as address:
        tls_variables(monkeypatch, own, authority="other.pem")
        assert "its certificate is not of the authority in RAY_TLS_CA_CERT" in ray_head.fault_of(address)
        tls_variables(monkeypatch, others)
        monkeypatch.setenv("RAY_TLS_CA_CERT", str(own / "ca.pem"))
        assert "it refuses this trainer's certificate" in ray_head.fault_of(address)
        monkeypatch.setenv("RAY_TLS_SERVER_KEY", str(own / "cert.pem"))
        assert "cannot be used" in ray_head.fault_of(address)
        monkeypatch.delenv("RAY_TLS_SERVER_CERT")
        assert "RAY_TLS_SERVER_CERT names no file that this trainer can read: it is not set" in ray_head.fault_of(address)


@pytest.mark.usefixtures("_patient")
def test_what_is_not_a_head_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=lambda: [other.accept()[0].close() for _ in range(2)])
        thread.start()
        fault = ray_head.fault_of(f"127.0.0.1:{other.getsockname()[1]}")
        thread.join()
    assert "is not the head of a Ray cluster. Check the address" in fault


def test_what_is_waited_for_is_said_once_and_it_goes_on_when_the_head_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(ray_head, "_WAIT_PAUSE", 0.0)
    said: list[str] = []
    looks = 0
    with ExitStack() as ending:
        bound = ending.enter_context(socket.socket())  # nobody else gets its port, and nobody listens there yet
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        def look() -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                ending.enter_context(head_at(bound))

        ray_head.wait_for_head(f"127.0.0.1:{port}", 600.0, look, said.append)
    assert len(said) == 2
    assert said[0].startswith(
        f"Nothing answers at 127.0.0.1:{port}, the address of the Ray cluster in COMPLEX_SYSTEM_RAY_ADDRESS"
    )
    assert said[1] == ""


def test_a_head_that_is_there_is_not_talked_of() -> None:
    with head_at() as address:
        ray_head.wait_for_head(address, 0.0, report=pytest.fail)


def test_a_block_that_takes_long_is_told_and_its_end_too() -> None:
    said: list[str] = []
    late = threading.Event()

    def report(text: str) -> None:
        said.append(text)
        late.set()

    with ray_head.told_when_late(report, "late", 0.0):
        assert late.wait(60)
    with ray_head.told_when_late(report, "never", 3600.0):
        pass
    assert said == ["late", "", ""]


async def test_calls_of_workers_that_were_lost_end_when_those_that_replace_them_call() -> None:
    desk = _Desk()
    lost = [asyncio.create_task(desk.gather("first", 1, index, 3, index)) for index in (0, 1)]
    await asyncio.sleep(0)
    found = await asyncio.gather(*(desk.gather("second", 1, index, 3, index) for index in range(3)))
    assert found == [[0, 1, 2]] * 3
    assert await asyncio.wait_for(asyncio.gather(*lost), 60) == [None, None]


def _times_out(address: str) -> socket.socket:
    raise TimeoutError
