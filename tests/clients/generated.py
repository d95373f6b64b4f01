"""Generates a client from ``/openapi.json`` with openapi-python-client, and asks with it. Arguments: REST, gRPC, API key."""

from __future__ import annotations

import compileall
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

URL, _, KEY = sys.argv[1:]

with tempfile.TemporaryDirectory() as folder:
    request = urllib.request.Request(f"{URL}/openapi.json", headers={"X-API-Key": KEY})
    document = Path(folder, "openapi.json")
    document.write_bytes(urllib.request.urlopen(request).read())
    generated = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", "--path", document, "--output-path", Path(folder, "plant"),
         "--meta", "none"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = (generated.stdout + generated.stderr).splitlines()
    warnings = [f"{line} {lines[place + 2]}" for place, line in enumerate(lines) if line.startswith("WARNING")]
    compiles = compileall.compile_dir(Path(folder, "plant"), quiet=1)
    sys.path.insert(0, folder)
    import plant

    modules = [each.name for each in pkgutil.walk_packages(plant.__path__, "plant.") if importlib.import_module(each.name)]
    from plant.api.model import model
    from plant.api.open_inference_protocol_v2 import infer_newest
    from plant.api.predict import explain, predict
    from plant.models import InferenceRequest, InputTensor, RawRecord, Records

    client = plant.AuthenticatedClient(base_url=URL, token=KEY, prefix="", auth_header_name="X-API-Key")
    record = {"material_id": "11111111", "laborant": "TK", "rohwert_1_labormessung": 3.2, "rohwert_2_labormessung": 1.0}
    asked = Records(records=[RawRecord.from_dict(record)], interval=0.9)
    tensors = [
        InputTensor(name=name, shape=[1, 1], datatype="FP64" if isinstance(value, float) else "BYTES", data=[value])
        for name, value in record.items()
    ]
    predicted, refused = (
        predict.sync(client=client, body=asked),
        predict.sync(client=client, body=Records(records=[RawRecord.from_dict({**record, "rohwert_1_labormessung": 31.0})])),
    )
    found = {
        "warnings": warnings,
        "compiles": compiles,
        "modules": len(modules),
        "predictions": predicted.predictions,
        "intervals": predicted.intervals,
        "inferred": infer_newest.sync("champion", client=client, body=InferenceRequest(inputs=tensors)).outputs[0].data,
        "explained": explain.sync(client=client, body=RawRecord.from_dict(record)).explanations[0].prediction,
        "model": model.sync(client=client).model.version,
        "refused": (type(refused).__name__, refused.error.code),
    }
print(json.dumps(found))
