"""The device of the networks, where it can be told without a GPU."""

from __future__ import annotations

import pytest
import torch

from complex_system.training.pytorch import chosen_device, device_name


@pytest.mark.parametrize(
    ("asked", "there", "expected"), [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_a_gpu_is_used_where_there_is_one_and_nobody_says_no(
    asked: str, there: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a card")
    device = chosen_device(asked)
    assert device == torch.device(expected)
    assert device_name(device) == {"cuda": "gpu (a card)", "cpu": "cpu"}[expected]
