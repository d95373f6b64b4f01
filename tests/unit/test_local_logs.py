"""Logs have a limit, and a full disk does not end a run."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from complex_system.local.display import LogDisplay
from complex_system.local.logs import StatusFile, is_nearly_full, logging_to, rotate
from complex_system.local.state import RunState
from complex_system.settings import Settings
from small_disk import needs_root, small_disk


def test_a_long_log_is_moved_and_its_writer_goes_on(tmp_path: Path) -> None:
    log, earlier = tmp_path / "service.log", tmp_path / "service.log.1"
    with log.open("a") as writer:
        for turn in range(3):
            writer.write(f"{turn}" * 200 + "\n")
            writer.flush()
            rotate(log, limit=100)
            assert (log.read_text(), earlier.read_text()) == ("", f"{turn}" * 200 + "\n")
        writer.write("short\n")
        writer.flush()
        rotate(log, limit=100)
        assert log.read_text() == "short\n"
    rotate(tmp_path / "nowhere.log")


def test_our_own_log_is_bounded_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("complex_system.local.logs.LOG_BYTES", 2000)
    with logging_to(tmp_path / "runner.log", Settings()):
        for i in range(200):
            logging.getLogger("x").info("line %d", i)
    assert {path.name for path in tmp_path.iterdir()} == {"runner.log", "runner.log.1"}
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())


@needs_root
def test_a_full_disk_is_reported_once_and_does_not_end_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        state = RunState("here")
        told: list[str] = []
        state.on_note.append(told.append)
        status = StatusFile(disk.folder / "status.json", state)
        status.write()
        with logging_to(disk.folder / "runner.log", Settings()):
            state.on_note.append(logging.getLogger("x").info)
            disk.fill()
            assert is_nearly_full(disk.folder)
            with pytest.raises(OSError, match="No space") as found:
                (disk.folder / "probe").write_bytes(b"x" * 65536)
            assert found.value.errno == errno.ENOSPC
            for _ in range(3):
                status.write()
            for _ in range(2000):
                logging.getLogger("x").info("a line that finds no room")
            disk.make_room()
            (disk.folder / "probe").unlink()
            state.phase = "running"
            status.write()
        assert told == [
            "status.json cannot be written: No space left on device; the run goes on",
            "status.json is written again",
        ]
        assert json.loads((disk.folder / "status.json").read_text())["state"] == "running"
    assert capfd.readouterr() == ("", "")


@needs_root
def test_a_full_disk_below_the_output_of_a_run_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 1) as disk, (disk.folder / "run.out").open("w") as output:
        monkeypatch.setattr("sys.stdout", output)
        display = LogDisplay(RunState("here"))
        output.write("x" * os.sysconf("SC_PAGE_SIZE"))
        display.say("before")
        disk.fill()
        for _ in range(200):
            display.say("a line that finds no room, but for the rest of a page")
        disk.make_room()
        display.say("there is room again")
        assert (disk.folder / "run.out").read_text().endswith("there is room again\n")
