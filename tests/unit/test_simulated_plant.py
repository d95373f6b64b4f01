"""The shipped rules on a plant in simulated time: real records, a real model, the real monitoring, no waiting."""

from __future__ import annotations

import pytest

from monitoring_page.messages import compared as compared_model
from monitoring_page.messages import comparison
from simulation import START, Pace, Plant, champion

BUSY = Pace(records=25, ramp=60.0)
"""The default rules, points and windows with more predictions, so that less time passes."""


def test_thirty_minutes_of_normal_operation_raise_no_alert() -> None:
    plant = Plant(seed=11)
    assert [change for _, change in plant.run(1800)] == []
    assert plant.now - START == 1800
    assert plant.monitor.figures.number("performance/count") == 500, "the windows were full, so there was something to judge"
    assert plant.monitor.figures.number("drift/samples") == 500


@pytest.mark.parametrize(
    ("scenario", "rules"),
    [
        ("shift", {"drift", "error"}),
        ("concept", {"error"}),
        ("missing", {"drift", "missing-values"}),
        ("new_category", {"new-category", "rejected-records"}),
    ],
)
def test_what_happens_to_the_lab_is_noticed_and_the_alerts_end_with_it(scenario: str, rules: set[str]) -> None:
    plant = Plant(seed=12, pace=BUSY)
    assert list(plant.run(150)) == []
    plant.begin(scenario)
    raised = [change.alert for _, change in plant.run(400)]
    assert {alert.rule for alert in raised} == rules
    assert {alert.subject for alert in raised if alert.rule == "drift"} <= {"rohwert_2_labormessung"}
    plant.begin("normal")
    ended = [change for _, change in plant.run(500)]
    assert {change.kind for change in ended} == {"ended"}
    assert plant.rules.open == []


def test_a_champion_that_stays_is_still_judged_by_the_error_with_which_it_was_crowned() -> None:
    plant = Plant(seed=13, pace=BUSY)

    def compared(rmse: float, kept: str) -> None:
        plant.monitor.compared(
            comparison(compared_model("lab-lightgbm", "1", rmse, residuals=champion().residuals), kept=kept)
        )

    compared(champion().rmse, "")
    assert list(plant.run(150)) == []
    plant.begin("noise")
    assert {change.alert.rule for _, change in plant.run(300)} == {"error"}
    compared(34.0, "lab-lightgbm 1 stays champion.")
    changes = [change for _, change in plant.run(300)]
    assert {(change.kind, change.alert.rule) for change in changes} <= {("raised", "drift")}, "nothing has become better"
    assert plant.rules.open[0].rule == "error"
    assert plant.rules.open[0].newest > 1.5
