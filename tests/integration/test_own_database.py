"""docs/how-to/add-a-database.md, followed as its reader does: a store in memory, the suite, the service, the deployment."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from complex_system.cli.project import create_project
from complex_system.domain.laboratory import Laboratory
from complex_system.local.servers import ANY_PORT, Server
from complex_system.messaging.clients import DatabaseClient
from complex_system.messaging.users import service_user
from complex_system.settings import Settings
from documented import ROOT, included
from runs import FIOT
from support import TesterService, eventually, running

PAGE = ROOT / "docs" / "how-to" / "add-a-database.md"
STORE = Path("src", "my_plant", "memory_store.py")
NEVER_PROCESSED_AGAIN = ('row.done = "" if change.values else row.done', "row.done = row.done")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the files that the page shows, under the names that it gives them."""
    folder = tmp_path / "my-plant"
    create_project(folder)
    shown = included(PAGE)
    assert len({name for name, _ in shown}) == 7
    for name, source in shown:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    for package in ("my_plant", "my_plant_services", "my_plant_services/database_memory"):
        (folder / "src" / package / "__init__.py").touch()
    return folder


def suite(project: Path, *options: str) -> tuple[int, str]:
    """Runs the suite in the project as the page says; exit code and output."""
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert "Warning" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def break_promise(project: Path, right: str, wrong: str) -> None:
    text = (project / STORE).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (project / STORE).write_text(text.replace(right, wrong), encoding="utf-8")


def test_the_store_of_the_page_keeps_the_contract_and_a_broken_promise_is_named(project: Path) -> None:
    code, said = suite(project, "-rs")
    assert code == 0, said
    page = PAGE.read_text(encoding="utf-8")
    progress = re.search(r"^[.s]{20,}", said, re.MULTILINE)
    assert progress is not None
    assert progress[0] in page
    assert f"{len(progress[0])} cases" in page
    assert "has no server" in said
    assert "has no rules" in said
    break_promise(project, *NEVER_PROCESSED_AGAIN)
    code, said = suite(project, "-k", "later or replacement")
    assert code == 1
    shown = page[page.index("## When a promise is broken") :].split("```")[3]
    for line in shown.splitlines()[2:]:
        assert line == "..." or line in said


@pytest.mark.long
@pytest.mark.parametrize(
    ("right", "wrong", "case"),
    [
        (
            "if key in database.raw:\n                known",
            "if False:\n                known",
            "test_saving_again_changes_nothing",
        ),
        ("            return False\n", "            pass\n", "comes_too_late_and_replaces_nothing"),
        (
            "value + 0.0 if type(value) is float",
            "value if type(value) is float",
            "test_raw_records_are_kept_to_the_last_bit",
        ),
        ("[(row.arrived, key) for", "[(-row.arrived, key) for", "the_oldest_first"),
        ("database.rejected.pop(key, None)\n        return", "pass\n        return", "its_rejection_taken_back"),
        (
            "self._is_open = False\n\n    @override\n    async def ping",
            "pass\n\n    @override\n    async def ping",
            "is_not_open",
        ),
        ("each.encoded_body())", '"{}")', "test_documents_come_back_as_they_were_saved"),
    ],
)
def test_each_broken_promise_is_found(project: Path, right: str, wrong: str, case: str) -> None:
    break_promise(project, right, wrong)
    code, said = suite(project)
    assert code == 1
    assert case in said


async def test_the_service_of_the_page_keeps_records(
    project: Path, nats_server: Server, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project / "src")
    module = importlib.import_module("my_plant_services.database_memory.database_memory_service")
    mine, ours = service_user("database_memory"), service_user("database_mongo")
    assert [each.replace("memory", "mongo") for each in mine.subscribe or ()] == list(ours.subscribe or ())
    settings = make_settings(nats_server, ingest=False)
    records = list(Laboratory(3).records(20))
    async with running(module.DatabaseMemoryService, settings), running(TesterService, settings) as tester:
        client = DatabaseClient(tester)
        assert (await client.save_raw(records)).db == "memory"
        assert (await client.save_raw(records)).existing == 20
        assert (await client.counts()).raw == 20


@pytest.mark.long
async def test_fiot_run_starts_the_service_of_the_page_with_a_user_of_its_own(project: Path) -> None:
    config = project / "deployments" / "memory" / "config_dir"
    shutil.copytree(project / "deployments" / "mongo" / "config_dir", config)
    deployment = config.parent / "deployment.yaml"
    text = deployment.read_text(encoding="utf-8")
    others = r"^  (mlflow|data_processing|ml_\w+):\n"
    deployment.write_text(re.sub(others, "", text, flags=re.MULTILINE), encoding="utf-8")
    command = [FIOT, "run", "memory", "--locked", "--records", "500"]
    run = subprocess.Popen(command, cwd=project, env={**os.environ, **ANY_PORT})
    try:

        def saved() -> bool:
            status = project / ".run" / "memory" / "status.json"
            return status.is_file() and (json.loads(status.read_text())["records"] or {}).get("raw", 0) >= 500

        await eventually(saved, 120)
    finally:
        run.terminate()
        run.wait(60)
