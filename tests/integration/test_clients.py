"""Clients that others made ask serving, with their defaults: tritonclient and MLServer's codecs, over HTTP and gRPC.

They need other versions than ours, so they run in ``.venv-clients``, which ``make test`` makes.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from complex_system.domain.dataset import Dataset
from complex_system.pipeline.pipeline import Pipeline
from complex_system.serving.engine import Limits
from complex_system.tracking.model_files import SAMPLE_FILE
from models import ManyModels, grpc_server, rest_server
from trainings import quick_sample

PYTHON = Path(f"{sys.prefix}-clients", "bin", "python")
PROGRAMS = Path(__file__).parents[1] / "clients"
DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
DATASET = Dataset.load()
KEY = "clients-key"
NUMBERS = {"rohwert_1_labormessung": [3.2, None, 29.0], "rohwert_2_labormessung": [1.0, 2.5, 3.0]}
COLUMNS: dict[str, list[Any]] = {
    "material_id": ["11111111", "00000000", "33333333"],
    "laborant": ["TK", None, "AN"],
    **NUMBERS,
}


@pytest.fixture(scope="module")
async def addresses() -> AsyncIterator[tuple[str, str]]:
    """Addresses of REST and gRPC."""
    source = ManyModels(DATASET)
    source.publish("lab-lightgbm", 1.0)
    source.publish("lab-lightgbm", 2.0, champion=True)
    source.files = {SAMPLE_FILE: quick_sample()}
    limits = Limits(records=10_000)
    async with (
        rest_server(DATASET, source, limits, api_key=KEY) as (_, client),
        grpc_server(DATASET, source, limits, KEY) as (_, server),
    ):
        yield str(client.base_url).rstrip("/"), server.address


async def run(*arguments: str) -> str:
    """What a program in the environment of the clients prints."""
    assert PYTHON.exists(), f"{PYTHON} is missing: `make test` installs it."
    command = [str(PYTHON), "-W", "ignore", *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


async def answers_of(program: str, addresses: tuple[str, str]) -> Any:
    return json.loads((await run(str(PROGRAMS / program), *addresses, KEY)).splitlines()[-1])


def expected(bias: float = 2.0, *left_out: str) -> Any:
    kept = {name: values for name, values in COLUMNS.items() if name not in left_out}
    records = [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]
    return pytest.approx([bias + float(row.sum()) for row in Pipeline(DATASET).features(records)], rel=1e-5)


async def test_tritonclient_with_its_defaults(addresses: tuple[str, str]) -> None:
    found = await answers_of("triton.py", addresses)
    inputs = [column.name for column in DATASET.columns if column.name != DATASET.target]
    for way in ("http", "grpc"):
        answers = found[way]
        assert answers["about"] == [True, True, True, "complex-system", "onnxruntime_onnx", inputs], way
        assert answers["default"] == expected(), way
        assert answers["version"] == expected(1.0), way
        assert answers["many"] == pytest.approx(answers["default"] * 1000), way
        assert answers["features"] == pytest.approx([9.5, 9.5]), way
        outputs = answers["outputs"]
        assert outputs["prediction"] == expected()
        assert outputs["lower"] == pytest.approx([each - 90 for each in outputs["prediction"]], rel=1e-5)
        assert outputs["upper"] == pytest.approx([each + 90 for each in outputs["prediction"]], rel=1e-5)
        assert len(outputs["warnings"]) == 3
    assert found["http"]["mixed"] == expected()
    assert found["http"]["json"] == expected(2.0, "rohwert_1_labormessung")
    assert found["http"]["without waiting"] == expected()
    for answers in found["async"].values():
        assert answers == [expected()] * 20
    statuses = {
        "bad value": ("400", "INVALID_ARGUMENT", "'9' is not one of"),
        "unknown model": ("404", "NOT_FOUND", "nobody"),
        "no key": ("401", "UNAUTHENTICATED", "API key"),
        "too many": ("413", "RESOURCE_EXHAUSTED", "12000 records"),
    }
    for name, (http, grpc, words) in statuses.items():
        for way, status in (("http", http), ("grpc", f"StatusCode.{grpc}")):
            raised, message = found[way][name]
            assert raised == status
            assert words in message


async def test_mlservers_codecs_and_messages(addresses: tuple[str, str]) -> None:
    found = await answers_of("mlserver_codecs.py", addresses)
    assert found["frame"]["prediction"] == expected(2.0, "laborant")
    assert found["codecs"] == found["frame"]
    for way in ("typed", "raw"):
        assert found[way]["prediction"] == expected(2.0, "laborant", "rohwert_1_labormessung")
        assert found[way]["upper"] == pytest.approx([each + 90 for each in found[way]["prediction"]], rel=1e-5)


async def test_the_examples_of_the_documentation_work_when_pasted() -> None:
    source = ManyModels(DATASET)
    source.publish("lab-lightgbm", 2.0, champion=True)
    blocks = [each for each in DOCS.read_text(encoding="utf-8").split("```")[1::2] if "import tritonclient" in each]
    async with rest_server(DATASET, source) as (_, client), grpc_server(DATASET, source) as (_, server):
        addresses = {"localhost:8001": client.base_url.netloc.decode(), "localhost:8011": server.address}
        programs = [block.replace(*address) for block, address in zip(blocks, addresses.items(), strict=True)]
        printed = [await run("-c", program) for program in programs]
    numbers = [[float(each) for each in re.findall(r"-?[\d.]+\d|-?\d+", text)] for text in printed]
    assert numbers[0] == pytest.approx([4.0, 4.0])
    assert numbers[1] == pytest.approx([4.0, 4.0, -86.0, -86.0, 94.0, 94.0])


async def test_a_client_that_a_generator_makes_of_the_openapi_document(addresses: tuple[str, str]) -> None:
    found = await answers_of("generated.py", addresses)
    assert found["warnings"] == [
        "WARNING parsing POST /invocations within m_lflow_scoring. Unsupported content type text/csv"
    ]
    assert found["compiles"]
    assert found["modules"] > 80
    [prediction] = expected(2.0).expected[:1]
    assert found["predictions"] == found["inferred"] == pytest.approx([prediction])
    assert found["explained"] == pytest.approx(prediction)
    assert found["intervals"] == [[pytest.approx(prediction - 90), pytest.approx(prediction + 90)]]
    assert (found["model"], found["refused"]) == ("2", ["Error", "invalid_record"])
