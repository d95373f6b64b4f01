"""A Ray cluster whose connections use TLS, as docs/cluster.md sets it up: a shared fit, and who is not let in."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from certificates import write_certificates
from complex_system.errors import ClusterUnavailableError
from complex_system.local.servers.ray import RayHead, ray_cluster
from complex_system.training import ray_head
from documented import blocks
from ray_nodes import FOLDERS

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

FIT = """
import os
from complex_system.domain.dataset import Dataset
from complex_system.training.base import TrainingParameters, score
from complex_system.training.cluster import ClusterParameters
from complex_system.training.distributed import SharedFit, fit_on_cluster
from ray_nodes import LabPages
from trainings import trainer

pages, parameters = LabPages(21, 4000), TrainingParameters(boosting_rounds=60)
work = SharedFit(trainer("lightgbm", parameters), Dataset.load(), pages, 100)
model, fitted = fit_on_cluster(ClusterParameters(os.environ["COMPLEX_SYSTEM_RAY_ADDRESS"]), work, lambda _: None)
assert fitted.labelled == pages.labelled, fitted.labelled
alone = trainer("lightgbm", parameters).fit(pages.data(), lambda _: None)
shared, single = (score(fitted.data.validation.y, each.predict(fitted.data.validation.x)).rmse for each in (model, alone))
assert abs(shared / single - 1) < 0.1, (shared, single)
print("fitted")
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the documented commands make, for a node at 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    [commands] = [block.text for block in blocks("docs/cluster.md") if "openssl" in block.text]
    assert "IP:192.0.2.11" in commands
    text = commands.replace("IP:192.0.2.11", "IP:127.0.0.1")
    subprocess.run(
        ["bash", "-ec", text], cwd=folder, env={**os.environ, "HOME": str(folder)}, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def variables(certificates: Path) -> dict[str, str]:
    """The documented variables, with the folder of this test's files."""
    [text] = [block.text for block in blocks("docs/cluster.md") if block.text.startswith("RAY_USE_TLS")]
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return dict(line.replace("/etc/ray", str(certificates)).split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def head(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """The head of a cluster with two workers."""
    folder = tmp_path_factory.mktemp("ray")
    head, nodes = ray_cluster(folder, folder / "logs", 2)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stopping:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, FOLDERS)))
        for name, value in variables.items():
            patch.setenv(name, value)
        for node in nodes:
            stopping.callback(node.stop)
            node.start()
            node.wait_ready()
        yield head


def run(head: RayHead, code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **head.trainer_environment(2), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_fit_is_shared_over_tls(head: RayHead, variables: dict[str, str]) -> None:
    done = run(head, FIT, variables)
    assert done.stdout.endswith("fitted\n"), (done.stdout + done.stderr)[-3000:]


def answered(head: RayHead, context: ssl.SSLContext | None) -> bytes:
    """What the head says to whoever connects; nothing to somebody who is not let in."""
    with socket.create_connection(("127.0.0.1", head.port), timeout=20) as plain:
        try:
            if context is None:
                plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                return plain.recv(9)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                return secure.recv(9)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_nobody_is_let_in_without_tls_or_without_a_certificate(head: RayHead, certificates: Path) -> None:
    known, stranger = (ssl.create_default_context(cafile=str(certificates / "ca.crt")) for _ in range(2))
    known.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")
    for context in (known, stranger):
        context.set_alpn_protocols(["h2"])
    assert answered(head, known)
    assert not answered(head, stranger)
    assert b"\x04" not in answered(head, None)


def test_a_trainer_without_the_variables_or_of_another_authority_is_told_so(
    head: RayHead, variables: dict[str, str], certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_head, "CONNECT_SECONDS", 120.0)  # a head that is slow is not judged
    address = f"127.0.0.1:{head.port}"
    assert ray_head.fault_of(address) == ""  # the module's fixture has set the variables
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(write_certificates(tmp_path) / "ca.pem"))
    assert "its certificate is not of the authority in RAY_TLS_CA_CERT" in ray_head.fault_of(address)
    monkeypatch.setenv("RAY_TLS_CA_CERT", variables["RAY_TLS_CA_CERT"])
    for name, file in (("CERT", "cert.pem"), ("KEY", "key.pem")):
        monkeypatch.setenv(f"RAY_TLS_SERVER_{name}", str(tmp_path / file))
    assert "it refuses this trainer's certificate" in ray_head.fault_of(address)
    for name in variables:
        monkeypatch.delenv(name)
    assert "uses TLS, and this trainer does not. Set RAY_USE_TLS=1" in ray_head.fault_of(address)
    said: list[str] = []
    with pytest.raises(ClusterUnavailableError, match="uses TLS"):
        ray_head.wait_for_head(address, 4.0, report=said.append)
    assert [each[-20:] for each in said] == ["Tried again for 4 s."]
