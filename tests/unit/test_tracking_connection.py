"""What clients and events learn of the MLflow server: its address and its answer, never its password."""

from __future__ import annotations

import pytest
import requests

from complex_system.errors import TrackingRefusedError
from complex_system.tracking.connection import run_url, translated, without_secrets


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
