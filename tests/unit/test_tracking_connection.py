"""What clients and events learn of the MLflow server: its address and its answer, never its password."""

from __future__ import annotations

import subprocess
import sys

import pytest
import requests

from complex_system.errors import TrackingRefusedError
from complex_system.tracking.connection import run_url, translated, without_paths, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host:8080", "http://host:8080"),
        ("https://user:secret@host/mlflow", "https://host/mlflow"),
        ("https://user:s@cr/et@host:1/a", "https://host:1/a"),
        ("at http://u:secret@a/x and http://u:secret@b/y.", "at http://a/x and http://b/y."),
        ("sqlite:///folder/mlflow.db", "sqlite:///folder/mlflow.db"),
    ],
)
def test_user_and_password_are_left_out_and_the_rest_stays(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("No such artifact: /var/lib/mlflow/1/ab-c/model.onnx!", "No such artifact: (a file)!"),
        ("at file:///srv/mlruns/0 and 'C'", "at (a file) and 'C'"),
        ("http://host:1/a/b/c fails, and/or 3/4/5", "http://host:1/a/b/c fails, and/or 3/4/5"),
    ],
)
def test_names_of_files_are_left_out_and_addresses_stay(text: str, shown: str) -> None:
    assert without_paths(text) == shown


def test_the_address_of_a_run_keeps_the_servers_path() -> None:
    assert run_url("https://user:secret@host/mlflow/", "3", "abc") == "https://host/mlflow/#/experiments/3/runs/abc"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_servers_own_words_lose_the_password_too() -> None:
    uri = "http://user:secret@host:8080/" + "x" * 260
    response = requests.Response()
    response.status_code = 401
    with pytest.raises(TrackingRefusedError) as caught, translated(uri, "logging"):
        raise requests.HTTPError(f"401 Client Error for url: {uri} and again {uri}", response=response)
    assert "401 Client Error for url: http://host:8080" in caught.value.message
    assert "secret" not in caught.value.message
    assert "user" not in caught.value.message


_IMPORT_THAT_FAILS_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from complex_system.tracking.connection import load_mlflow

class OnceUnreadable:
    done = False
    def find_spec(self, name, path=None, target=None):
        if name == "mlflow.models.model" and not self.done:
            self.done = True
            raise OSError("the disk hiccups")

sys.meta_path.insert(0, OnceUnreadable())
try:
    load_mlflow()
except OSError as error:
    print("first:", error)
with ThreadPoolExecutor(8) as threads:
    found = {id(each) for each in threads.map(lambda _: load_mlflow(), range(8))}
print("then:", len(found), load_mlflow().MlflowClient.__name__)
"""


def test_an_import_of_mlflow_that_failed_is_tried_again_and_many_threads_import_it_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_THAT_FAILS_ONCE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines() == ["first: the disk hiccups", "then: 1 MlflowClient"], done.stderr
