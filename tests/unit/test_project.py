"""``complex-system init``: a project whose services are those of the installed package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from complex_system.cli.project import DEPLOYMENTS, create_project, main
from complex_system.deploy.project import installed_services
from complex_system.domain.dataset import Dataset
from complex_system.local.servers import mlflow

ROOT = Path(__file__).parents[2]


def fiot(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("fiot"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_project_is_written_and_known_to_fiot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "My-Plant"
    assert main(["init", str(folder)]) == 0
    assert "fiot run mongo" in capsys.readouterr().out
    assert 'project_namespace = "my_plant"' in (folder / "configure.py").read_text()
    assert "my_plant" in (folder / "README.md").read_text()
    assert ".env" in (folder / ".gitignore").read_text().splitlines()
    assert (folder / ".env.example").read_text() == (ROOT / ".env.example").read_text()
    for deployment in DEPLOYMENTS:
        own, ours = folder / "deployments" / deployment, ROOT / "deployments" / deployment
        assert (own / "deployment.yaml").read_text() == (ours / "deployment.yaml").read_text()
        assert Dataset.load(str(own / "config_dir")).version == Dataset.load().version
    unknown = fiot(folder, "run", "none")
    assert unknown.returncode == 1
    assert "this project has maria, mongo" in unknown.stderr
    # A service of its own, as `fiot create new-service` makes it.
    own = folder / "src" / "my_plant_services" / "my_service"
    own.mkdir()
    (own / "run.py").touch()
    (own / "manifest.yaml").write_text("fastiot_service:\n  name: my_service\n")
    deployment = folder / "deployments" / "mongo" / "deployment.yaml"
    deployment.write_text(deployment.read_text().replace("\nservices:\n", "\nservices:\n  my_service:\n"))
    # Passwords, and the configuration of all containers: what names every service and its manifest.
    assert fiot(folder, "extras", "init-env", "mongo").returncode == 0
    configured = fiot(folder, "config", "mongo")
    assert configured.returncode == 0, configured.stderr
    compose = (folder / "build" / "deployments" / "mongo" / "docker-compose.yaml").read_text()
    assert "ml_lightgbm_regression_mlflow" in compose
    assert 'user: "my_service"' in (folder / "build" / "deployments" / "mongo" / "users.conf").read_text()
    variables = (folder / "build" / "deployments" / "mongo" / "env" / "my_service.env").read_text()
    assert "FASTIOT_NATS_USER=my_service" in variables
    assert "COMPLEX_SYSTEM_API_KEY" not in variables


def test_a_service_of_ones_own_begins_in_a_new_project(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "my-plant")]) == 0
    done = fiot(tmp_path / "my-plant", "create", "new-service", "my_service", "--package", "my_plant_services")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert fiot(tmp_path / "my-plant", "create", "new-service", "another").returncode == 0  # the one package is the default
    services = tmp_path / "my-plant" / "src" / "my_plant_services"
    assert {path.parent.name for path in services.glob("*/manifest.yaml")} == {"my_service", "another"}


def test_the_images_of_a_project_have_the_installed_package_and_what_is_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "my-plant"
    create_project(folder)
    for name in ("my_service", "ml_serving"):  # the second one takes the place of ours
        own = folder / "src" / "my_plant_services" / name
        own.mkdir()
        (own / "run.py").touch()
        (own / "manifest.yaml").write_text(f"fastiot_service:\n  name: {name}\n")
    done = fiot(folder, "build", "--dry")
    assert done.returncode == 0, done.stderr
    place = folder / "build" / "docker"
    files = {path.name.removeprefix("Dockerfile."): path.read_text() for path in place.glob("Dockerfile.*")}
    assert {each.name for each in installed_services()} | {"my_service"} == set(files)
    assert (place / "docker-bake.hcl").read_text().count('target "ml_serving-debug"') == 1
    seen = (folder / ".dockerignore").read_text().splitlines()
    for name, text in files.items():
        is_own = name in ("my_service", "ml_serving")
        for source in (word for line in re.findall("^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]):
            assert (folder / source).exists(), (name, source)
            assert any(f"!{top}" in seen for top in (source, source.split("/")[0], "/".join(source.split("/")[:3]))), source
        assert ("COPY src src" in text) == is_own
        assert (f'"complex_system.messaging.project_service", "my_plant_services.{name}.run"' in text) == is_own
        assert re.search("^HEALTHCHECK ", text, re.MULTILINE), name
    for path in ("install.sh", "constraints.txt", "requirements/requirements.lightgbm.txt"):
        assert (place / "complex_system" / path).read_bytes() == (ROOT / path).read_bytes()
    assert (place / "complex_system" / "src" / "complex_system" / "settings" / "__init__.py").is_file()
    (folder / "requirements.txt").unlink()
    refused = fiot(folder, "build", "--dry")
    assert refused.returncode == 1
    assert "requirements.txt is missing" in refused.stderr
    assert "an empty file will do" in refused.stderr


def test_mlflows_server_is_installed_again_when_its_versions_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def call(command: list[str], _: object) -> tuple[int, list[str]]:
        asked.append(command)
        return 0, []

    said: list[str] = []
    constraints, environment = tmp_path / "constraints.txt", tmp_path / "env-mlflow"
    environment.mkdir()
    monkeypatch.setattr(mlflow, "_CONSTRAINTS", constraints)
    monkeypatch.setattr(mlflow, "_watched", call)
    for versions, runs in (("mlflow==1", 1), ("mlflow==1", 1), ("mlflow==2", 2), ("mlflow==2", 2)):
        constraints.write_text(versions)
        mlflow.install_server(said.append, environment)
        assert len(asked) == 3 * runs
    assert [text.split()[0] for text in said] == ["installing", "updating"]
    (environment / ".installed").write_text("")  # make's
    mlflow.install_server(said.append, environment)
    assert len(said) == 2


def test_an_installation_shows_what_it_does_and_keeps_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "_SHOWN_SECONDS", 0.05)
    said: list[str] = []
    end = tmp_path / "end"

    def say(text: str) -> None:
        said.append(text)
        end.touch()  # the command goes on until something is shown

    command = f"seq 7; echo; while [ ! -e {end} ]; do sleep 0.01; done; echo no space left >&2; exit 3"
    assert mlflow._watched(["sh", "-c", command], say) == (3, ["4", "5", "6", "7", "no space left"])
    assert said[0].endswith(" s: 7")


def test_what_imports_fastiot_through_us_finds_the_project_and_says_nothing_of_git(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "no tag"], cwd=tmp_path, check=True)
    (tmp_path / "configure.py").write_text("project_namespace = 'of_its_own'\n")
    code = (
        "import complex_system_services.data_processing.data_processing_service\n"
        "from fastiot.cli.model.project import ProjectContext\n"
        "print(ProjectContext.default.project_namespace)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("of_its_own\n", "")


@pytest.mark.parametrize("name", ["full", "file", "4-presses"])
def test_a_folder_that_cannot_be_a_project_is_refused_and_stays(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name
    if name == "full":
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    if name == "file":
        folder.write_text("mine")
    assert main(["init", str(folder)]) == 1
    said = capsys.readouterr().err
    assert ("begin with a letter" if name == "4-presses" else "name another one") in said
    assert not (folder / "configure.py").exists()
