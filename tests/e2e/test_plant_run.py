"""A simulated plant from its sensors to predictions: ``fiot run --scenario plant`` from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from complex_system.local.plant.press import NOISE_FLOOR
from runs import fiot_run


@pytest.mark.long
@pytest.mark.timeout(960)
def test_readings_become_records_predictions_and_an_alert(tmp_path: Path) -> None:
    # Two trainers are enough here; ml_serving waits for W&B's model.
    only = {"COMPLEX_SYSTEM_TRAINERS": "lightgbm,pytorch-wandb", "COMPLEX_SYSTEM_EPOCHS": "100"}
    with fiot_run(tmp_path, "mongo", "--once", "--scenario", "plant", "--timeout", "840", **only) as run:
        assert run.wait(930) == 0, run.said
        assert run.left() == []
        status, said = run.status(), run.said
    steps = status["scenario"]["steps"]
    assert [step["step"] for step in steps] == [
        "parts predicted when they are done", "laboratory's values joined", "sensor stopped", "silent sensor noticed",
        "sensor works again", "alerts ended",
    ]  # fmt: skip
    times = [step["seconds"] for step in steps]
    assert times == sorted(times)
    assert "The sensor press-4.oil_temperature is silent" in steps[3]["text"]
    assert status["records"]["rejected"] == 0
    assert status["records"]["labelled"] >= 150
    # A model that knows the press by 150 parts only; without one the error would be 8 MPa.
    assert NOISE_FLOOR * 0.8 < status["champion"]["rmse"] < 4
    assert "The full cycle of 'mongo' worked" in said
