"""``make compose-cluster``: a trainer in a container that searches and cross-validates on a Ray cluster in containers.

A deployment of its own is made for it, with MongoDB, one trainer and two Ray workers. With ``ARGS=--shared`` it has MariaDB and so
many records that the workers fetch them and share the fit. Needs what ``compose.proof`` needs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import sys
import time

import yaml
from typing_extensions import override

from complex_system.domain.dataset import Dataset
from complex_system.domain.laboratory import Laboratory
from complex_system.domain.records import Record
from complex_system.errors import ComplexSystemError
from complex_system.local.plan import TRAINER_SERVICES
from complex_system.messaging.clients import SystemClient
from complex_system.protocol.training import TRAINING_PROGRESS, TrainingProgress
from compose.job import Job
from compose.proof import BASE, MEGABYTE, Proof
from compose.stack import ROOT, ProofError, call, fiot, image_sizes, inspect

RECORDS = 600
"""So few that the trainer searches and cross-validates, which is what runs on the cluster."""
BATCH = 1000
SHARED_RECORDS = 155_000
"""Labelled ones, so many that the workers share the fit."""
TRAINER = "lightgbm"
DEPLOYED = """\
infrastructure-services: {{nats: , {server}: , mlflow: , ray_head: , ray_worker: }}
services: {{{database}: , data_processing: , ml_lightgbm_regression_mlflow: }}
"""
SETTINGS = "COMPLEX_SYSTEM_BOOSTING_ROUNDS=100\nCOMPLEX_SYSTEM_LIGHTGBM_TRIALS=6\nCOMPLEX_SYSTEM_RAY_NODE_CPUS=1\n"
CLIENT = """
import os, sys
if sys.argv[1] == "stranger":
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        os.environ.pop(name)
import ray
try:
    ray.init("ray_head:6379", logging_level=50)
except Exception as error:
    sys.exit(f"refused: {error}")
print("connected")
"""


class ClusterProof(Proof):
    """One run of the proof."""

    def __init__(self, *, build: bool, shared: bool) -> None:
        self.server = "mariadb" if shared else "mongodb"
        super().__init__("maria-cluster" if shared else "mongo-cluster", build=False)
        self.builds, self.shared = build, shared
        self.folder = ROOT / "deployments" / self.stack.deployment
        self.service = TRAINER_SERVICES[TRAINER]
        self.stages: list[str] = []

    @override
    async def run(self) -> None:
        try:
            self.write_deployment()
            self.make_ready(own_env=False)
            self.build_images()
            self.start()
            self.stack.compose("up", "-d", "--no-recreate", "--scale=ray_worker=2")
            self.stack.wait_healthy(300)
            self.saw("two workers of Ray, all containers healthy")
            async with await self.client() as client:
                job = self.job(client)
                await job.client.hear(TRAINING_PROGRESS, self.progressed)
                await self.records(job)
                await self.trained(job, "first")
                if not self.shared:
                    await self.worker_dies(job)
            self.strangers()
            self.memory()
        except BaseException:
            with contextlib.suppress(ProofError):
                sys.stdout.write(self.stack.compose("logs", "--tail=15")[-12000:])
            raise
        finally:
            self.clean(own_env=True)
            shutil.rmtree(self.folder, ignore_errors=True)

    def write_deployment(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "config_dir").mkdir(parents=True)
        shutil.copy(ROOT / "deployments" / self.stack.deployment.partition("-")[0] / "nats.conf", self.folder)
        declared = yaml.safe_load((ROOT / "src/complex_system/domain/lab.yaml").read_text(encoding="utf-8"))
        del declared["law"]  # nobody searches and cross-validates where the best possible error is known
        text = yaml.safe_dump({**declared, "name": "plant"}, allow_unicode=True, sort_keys=False)
        (self.folder / "config_dir" / "dataset.yaml").write_text(text, encoding="utf-8")
        deployed = DEPLOYED.format(server=self.server, database=self.database)
        (self.folder / "deployment.yaml").write_text(deployed, encoding="utf-8")
        self.env_file.write_text(SETTINGS, encoding="utf-8")
        fiot("extras", "init-env", "--add", self.stack.deployment)
        self.saw(f"a deployment with {self.server}, the LightGBM trainer, and a head and workers of Ray with a token")

    def build_images(self) -> None:
        if not self.builds:
            return
        began = time.monotonic()
        fiot("build", "--dry")
        module = (sys.executable, "-m", "complex_system.deploy.images")
        call(*module, self.database, "data_processing")
        call(*module, "--cluster", self.service)
        self.saw(f"images built, or taken from the cache, in {time.monotonic() - began:.0f} s")

    @override
    def job(self, client: SystemClient) -> Job:
        return Job(client, self.settings(), {}, Dataset.load(self.folder / "config_dir"))

    async def progressed(self, event: TrainingProgress) -> None:
        self.stages.append(event.stage)

    # Steps

    async def records(self, job: Job) -> None:
        lab = Laboratory(seed=5)
        wanted = SHARED_RECORDS if self.shared else RECORDS
        began = time.monotonic()
        for first in range(0, wanted, BATCH):
            size = min(BATCH, wanted - first)
            rows = [lab.measured_record() for _ in range(size)] if self.shared else list(lab.records(size))

            async def saved(rows: list[Record] = rows) -> bool:
                return bool(await job.database.save_raw(rows))

            await job.until("the records are saved", saved, 120)
        seconds = time.monotonic() - began

        async def processed() -> bool:
            return (await job.counts()).processed == wanted

        _, later = await job.until("the records are processed", processed, 600)
        self.saw(f"{wanted} records saved in {seconds:.0f} s, and processed {later:.0f} s later")

    async def trained(self, job: Job, name: str) -> None:
        began = time.monotonic()
        self.stages.clear()
        [event] = await job.train((TRAINER,), name, 600)
        if event.status != "finished":
            raise ProofError(f"The training on the cluster failed: {event.error}")
        log = self.stack.compose("logs", "--no-color", self.service)
        connected = [line.partition("Connected to Ray")[2] for line in log.splitlines() if "Connected to Ray" in line]
        spread = {"training"} if self.shared else {"searching", "cross-validating"}
        shared = "training on the Ray cluster" in log
        if not connected or not spread <= set(self.stages) or shared != self.shared:
            raise ProofError(f"The cluster was not used: stages {sorted(set(self.stages))}, connections {connected}")
        self.saw(
            f"trained on the cluster in {time.monotonic() - began:.0f} s: stages {', '.join(dict.fromkeys(self.stages))}; "
            f"the trainer connected{connected[-1]}; samples {dict(event.samples)}"
        )

    async def worker_dies(self, job: Job) -> None:
        """Crash a worker while the trainer cross-validates."""

        async def crashed() -> None:
            while "cross-validating" not in self.stages:
                await asyncio.sleep(0.05)
            worker = self.stack.of("ray_worker")[0]
            self.stack.crash(worker)
            self.saw(f"killed {worker.service} while the trainer cross-validated")

        self.stages.clear()
        crash = asyncio.create_task(crashed())
        await self.trained(job, "second")
        await crash
        self.stack.wait_healthy(180)
        self.saw("all containers healthy, the killed worker too")

    def strangers(self) -> None:
        """The same program connects with the token that a node has, and without it does not."""
        [worker, *_] = self.stack.of("ray_worker")
        said = {}
        for who in ("known", "stranger"):
            script = f"timeout 120 python -c '{CLIENT}' {who} 2>&1; true"
            said[who] = call("docker", "exec", worker.id, "sh", "-c", script)
        if "connected" not in said["known"] or "refused: " not in said["stranger"]:
            raise ProofError(f"Ray does not let in by token: {said}"[:1500])
        reason = said["stranger"].partition("refused: ")[2].splitlines()[0][:160]
        self.saw(f"a client with the token connects, one without is refused: {reason}")

    @override
    def summary(self) -> str:
        base = inspect(BASE)[0]["Size"]
        names = [f"complex_system/{name}:latest" for name in (self.service, f"{self.service}-cluster", "ray")]
        table = ["| image | MB | above the base image |", "|---|---|---|"]
        table += [
            f"| {name} | {size / MEGABYTE:.0f} | {(size - base) / MEGABYTE:.0f} |"
            for name, size in image_sizes(names).items()
        ]
        memory = ", ".join(f"{name} {used}" for name, used in sorted(self.used.items()))
        steps = "\n".join(f"- {line}" for line in self.lines)
        options = " ARGS=--shared" if self.shared else ""
        return f"### `make compose-cluster{options}`\n\n{steps}\n- memory after the trainings: {memory}\n\n" + "\n".join(
            table
        )


def main() -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description="A trainer and a Ray cluster in containers.")
    parser.add_argument("--no-build", action="store_true", help="use the existing images")
    parser.add_argument("--shared", action="store_true", help="so many records that the workers share the fit")
    options = parser.parse_args()
    proof = ClusterProof(build=not options.no_build, shared=options.shared)
    try:
        asyncio.run(proof.run())
        text = proof.summary()
    except (ProofError, ComplexSystemError) as error:
        raise SystemExit(f"compose-cluster failed: {error}") from error
    (ROOT / "build" / "compose-cluster.md").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
