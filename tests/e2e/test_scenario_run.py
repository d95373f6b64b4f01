"""The whole system while its data change: the scenario of ``fiot run --scenario shift`` from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import fiot_run


@pytest.mark.long
@pytest.mark.timeout(960)
def test_a_sensor_drifts_and_the_system_notices_learns_and_recovers(tmp_path: Path) -> None:
    # Two trainers, and few epochs, are enough here: what the others can do, the full cycle shows. ml_serving waits for W&B's model.
    only = {"COMPLEX_SYSTEM_TRAINERS": "lightgbm,pytorch-wandb", "COMPLEX_SYSTEM_EPOCHS": "30"}
    with fiot_run(
        tmp_path, "mongo", "--once", "--scenario", "shift", "--records", "6000", "--timeout", "840", **only
    ) as run:
        assert run.wait(930) == 0, run.said
        assert run.left() == []
        status, said = run.status(), run.said
    scenario = status["scenario"]
    assert scenario["name"] == "shift"
    steps = scenario["steps"]
    assert [step["step"] for step in steps] == [
        "normal operation measured", "scenario begins", "drift seen", "alert raised", "training round begins", "new champion",
        "error back down", "alerts ended",
    ]  # fmt: skip
    times = [step["seconds"] for step in steps]
    assert times == sorted(times)
    seen = {step["step"]: step["text"] for step in steps}
    assert "rohwert_2_labormessung (second raw value)" in seen["alert raised"]
    assert "version 2, RMSE" in seen["new champion"]
    assert status["champion"]["version"] != "1"
    assert scenario["rmse_relative"] < 1.3
    assert "ALERT (critical): The predictions of aufbereiteter_wert" in said
    worst = said.index("ALERT (critical)")
    assert said.index("alert over: ") > worst
    assert "The full cycle of 'mongo' worked" in said
