"""``make compose-test DEPLOYMENT=mongo|maria``: the whole job in containers on a Docker engine, with crashes of every container.

Prints what it observes, ends with a summary in Markdown for docs/in-containers.md, and leaves nothing running. Needs Docker,
docker-compose, the public images that the compose file names, and root (a crash is a SIGKILL from the host).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from complex_system.errors import ComplexSystemError
from complex_system.local.plan import TRAINER_SERVICES
from complex_system.messaging.clients import SystemClient
from complex_system.protocol.database import RecordCounts
from complex_system.settings import Settings
from compose import doors
from compose.job import Job
from compose.stack import ROOT, Container, ProofError, Stack, call, fiot, image_sizes, inspect

SERVING = ("ml_serving", "ml_serving_mlflow")
TRAINERS = tuple(TRAINER_SERVICES)
BASE = "python:3.11-slim-bookworm"
SERVERS = tuple(doors.OF_SERVERS)
MEGABYTE = 1_000_000


class Proof:
    """One run of the proof; ``lines`` holds its observations."""

    def __init__(self, deployment: str, *, build: bool) -> None:
        self.stack = Stack(deployment)
        self.build = build
        self.lines: list[str] = []
        self.rows: list[tuple[str, ...]] = []
        self.began = time.monotonic()
        self.data = ROOT / "build" / "compose-test" / deployment
        self.env_file = ROOT / "deployments" / deployment / ".env"
        self.database = f"database_{deployment.partition('-')[0]}"

    def saw(self, text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - self.began:7.1f} s] {text}\n")
        sys.stdout.flush()
        self.lines.append(text)

    async def run(self) -> None:
        own_env = not self.env_file.exists()
        try:
            self.make_ready(own_env)
            self.start()
            async with await self.client() as client:
                job = self.job(client)
                before = await self.main_job(job)
                await self.doors()
                await self.scaled(job)
                await self.crashes(job)
                await self.crash_in_training(job)
                await self.trained_again(job)
                before |= await self.left(job)
            await self.down_and_up(before)
        except BaseException:
            with contextlib.suppress(ProofError):
                sys.stdout.write(self.stack.compose("logs", "--tail=15")[-12000:])
            raise
        finally:
            self.clean(own_env)

    # Steps

    def make_ready(self, own_env: bool) -> None:
        name = self.stack.deployment
        if own_env:
            fiot("extras", "init-env", name)
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True)
        fiot("config", name, "--port-offset", "0", env={"FASTIOT_VOLUME_DIR": str(self.data)})
        self.saw("fiot config: compose file and .env generated, with free ports")
        os.environ |= {
            name: value for name, value in self.stack.environment().items() if name.startswith("MLFLOW_TRACKING_")
        }
        self.stack.compose("config", "--quiet")
        self.saw("docker-compose config: no errors")
        if self.build:
            began = time.monotonic()
            fiot("build", "--dry")
            services = [
                path.name for path in (ROOT / "src" / "complex_system_services").iterdir() if (path / "run.py").exists()
            ]
            call(sys.executable, "-m", "complex_system.deploy.images", *sorted(services))
            self.saw(f"images built, or taken from the cache, in {time.monotonic() - began:.0f} s")

    def start(self) -> None:
        began = time.monotonic()
        fiot("start", self.stack.deployment, "-d")
        self.stack.wait_healthy(600, but=SERVING)
        self.saw(
            f"fiot start: all containers healthy after {time.monotonic() - began:.0f} s; serving waits for its first model"
        )
        containers = self.stack.containers()
        abroad = [port for c in containers for port in c.ports if not port.startswith("127.0.0.1:")]
        strangers = [c.service for c in containers if c.service not in SERVERS and c.user != "fastiot"]
        if abroad or strangers:
            raise ProofError(f"Ports open to others: {abroad}; services not run by the user fastiot: {strangers}")
        self.saw("every port is bound to 127.0.0.1, every service runs as the user fastiot")
        self.saw(doors.confined(containers))
        self.saw(doors.secrets_apart(containers, self.env_file))

    def services(self) -> list[Container]:
        return [container for container in self.stack.containers() if container.service not in SERVERS]

    async def client(self) -> SystemClient:
        return await SystemClient.open(self.settings(), "compose_test")

    def settings(self) -> Settings:
        return Settings.of(self.stack.environment())

    def job(self, client: SystemClient) -> Job:
        environment = self.stack.environment()
        urls = {
            "ml_serving": f"http://127.0.0.1:{environment['COMPLEX_SYSTEM_SERVING_PORT']}",
            "ml_serving_mlflow": f"http://127.0.0.1:{environment['COMPLEX_SYSTEM_SERVING_MLFLOW_PORT']}",
        }
        return Job(client, self.settings(), urls)

    async def main_job(self, job: Job) -> dict[str, object]:
        wanted = job.settings.records

        async def stored() -> RecordCounts | None:
            counts = await job.counts()
            return counts if min(counts.raw, counts.processed + counts.rejected) >= wanted else None

        counts, seconds = await job.until(f"{wanted} records saved and processed", stored, 300)
        self.saw(f"{counts.raw} records saved, {counts.processed} processed ({seconds:.0f} s after the start)")
        comparison, seconds = await job.until("a comparison of all four trainers", job.comparison, 900)
        trained = {result.trainer: result for result in comparison.results}
        if missing := sorted(set(TRAINERS) - set(trained)):  # beside them, ml_consumer may compare a stack of their models
            raise ProofError(f"{', '.join(missing)} took no part in the comparison of {', '.join(sorted(trained))}")
        errors = ", ".join(f"{name} {trained[name].rmse:.2f}" for name in TRAINERS)
        self.saw(f"all four trainers trained and were compared ({seconds:.0f} s): RMSE {errors}")
        champion, _ = await job.until("a champion", job.champion, 60)
        self.saw(f"champion: {champion.model} version {champion.version}")
        (rest, wandb), _ = await job.until("predictions", job.predicts, 120)
        self.saw(f"predictions from the host: champion {rest:.2f}, the same over REST and NATS, W&B model {wandb:.2f}")
        runs = await job.runs()
        finished = [run for run in runs if run.info.status == "FINISHED"]
        if len(finished) < len(TRAINERS) + 1:
            raise ProofError(f"MLflow shows {len(finished)} finished runs of {len(runs)}")
        self.saw(f"MLflow shows {len(runs)} runs, {len(finished)} of them finished")
        self.stack.wait_healthy(120)
        self.saw("all containers healthy, serving too")
        return {}

    async def doors(self) -> None:
        self.saw(await doors.closed_to_strangers(self.stack.environment()))
        self.saw(await asyncio.to_thread(doors.closed_to_each_other, self.services()))

    async def scaled(self, job: Job) -> None:
        doubled = ("data_processing", self.database)
        options = [f"--scale={service}=2" for service in doubled]
        self.stack.compose("up", "-d", "--no-recreate", *options)
        for service in doubled:
            for container in self.stack.of(service):
                await job.until(f"{service} {container.hostname}", lambda c=container: job.is_up(c.service, c.hostname), 90)
        seconds = await job.goes_on()
        self.saw(f"docker-compose up {' '.join(options)}: two containers of each answer, the job goes on ({seconds:.0f} s)")
        self.stack.compose("up", "-d", "--no-recreate", *(f"--scale={service}=1" for service in doubled))

    async def crashes(self, job: Job) -> None:
        for container in self.stack.containers():
            back, going = await self.crash(job, container)
            self.saw(f"killed {container.service}: back after {back:.0f} s, the job goes on after another {going:.0f} s")
            self.rows.append((container.service, f"{back:.0f}", f"{going:.0f}"))
        self.saw(f"all containers healthy again after {self.stack.wait_healthy(300):.0f} s")

    async def crash(self, job: Job, container: Container) -> tuple[float, float]:
        self.stack.crash(container)

        async def again() -> bool:
            [now] = self.stack.of(container.service)
            if not now.running or now.started == container.started:
                return False
            if container.service in SERVERS:
                return now.health == "healthy"
            return await job.is_up(now.service, now.hostname)

        _, back = await job.until(f"{container.service} comes back", again, 240)
        return back, await job.goes_on(180)

    async def crash_in_training(self, job: Job) -> None:
        await job.training_begins("pytorch", "compose-test-crash", 120)
        [container] = self.stack.of(TRAINER_SERVICES["pytorch"])
        back, _ = await self.crash(job, container)
        [event] = await job.train(("pytorch",), "compose-test-after-crash", 300)
        if event.status != "finished":
            raise ProofError(f"The training after the crash failed: {event.error}")
        self.saw(
            f"killed {container.service} in the middle of a training: back after {back:.0f} s, its next training finished"
        )

    async def trained_again(self, job: Job) -> None:
        began = time.monotonic()
        ended = await job.train(TRAINERS, "compose-test", 900)
        failed = [f"{event.trainer}: {event.error}" for event in ended if event.status != "finished"]
        if failed:
            raise ProofError(f"Trainings after the crashes failed: {failed}")
        self.saw(f"after the crashes all four trainers trained again ({time.monotonic() - began:.0f} s)")

    async def left(self, job: Job) -> dict[str, object]:
        champion = await job.champion()
        prediction, _ = await job.predicts()
        self.memory()
        return {"counts": await job.counts(), "champion": champion, "prediction": prediction}

    def memory(self) -> None:
        form = "{{.Name}} {{.MemUsage}}"
        used = {}
        for line in call("docker", "stats", "--no-stream", "--format", form).splitlines():
            name, value = line.split(" ", 1)
            if name.startswith(self.stack.project):
                used[name.removeprefix(f"{self.stack.project}_").rsplit("_", 1)[0]] = value.split(" / ")[0]
        self.used = used

    async def down_and_up(self, before: dict[str, object]) -> None:
        fiot("stop", self.stack.deployment)
        if self.stack.containers():
            raise ProofError("fiot stop left containers behind")
        began = time.monotonic()
        fiot("start", self.stack.deployment, "-d")
        async with await self.client() as client:
            job = self.job(client)
            (rest, _), _ = await job.until("predictions after down and up", job.predicts, 300)
            seconds = time.monotonic() - began
            counts, _ = await job.until("counts", job.counts, 60)
            champion, _ = await job.until("the champion", job.champion, 60)
        kept = before["counts"]
        assert isinstance(kept, RecordCounts)
        if counts.raw < kept.raw or champion != before["champion"]:
            raise ProofError(f"down and up lost something: {before} became {counts}, {champion}")
        self.saw(
            f"fiot stop and fiot start kept {kept.raw} records and champion {champion.model} version {champion.version}; "
            f"it predicts again after {seconds:.0f} s: {rest:.2f}"
        )
        self.stack.wait_healthy(300)
        self.saw("all containers healthy")

    def clean(self, own_env: bool) -> None:
        if (self.stack.folder / "docker-compose.yaml").is_file():
            with contextlib.suppress(ProofError):
                self.stack.compose("down", "--volumes", "--remove-orphans", "--timeout=20")
        shutil.rmtree(self.data, ignore_errors=True)
        if own_env:
            self.env_file.unlink(missing_ok=True)
        shutil.rmtree(self.stack.folder, ignore_errors=True)  # its ports and passwords were this run's
        self.saw("stopped; containers, networks, volumes and data are removed")

    # Summary

    def summary(self) -> str:
        services = sorted(service for service in self.used if service not in SERVERS)
        sizes = image_sizes([f"complex_system/{service}:latest" for service in services])
        base = inspect(BASE)[0]["Size"]
        crashed = {row[0]: row[1:] for row in self.rows}
        titles = (
            "container",
            "image, MB",
            "above the base image",
            "memory, trained",
            "back after a crash, s",
            "job goes on after, s",
        )
        table = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for service in [*services, *sorted(set(self.used) - set(services))]:
            size = sizes.get(f"complex_system/{service}:latest")
            megabytes = (f"{size / MEGABYTE:.0f}", f"{(size - base) / MEGABYTE:.0f}") if size else ("", "")
            table.append(f"| {' | '.join((service, *megabytes, self.used[service], *crashed.get(service, ('', ''))))} |")
        in_table = tuple(f"killed {service}: " for service in crashed)
        steps = "\n".join(f"- {line}" for line in self.lines if not line.startswith(in_table))
        return (
            f"### `make compose-test DEPLOYMENT={self.stack.deployment}`\n\n{steps}\n\nBase image here: {base / MEGABYTE:.0f} MB.\n\n"
            + "\n".join(table)
        )


def main() -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description="The whole job in containers.")
    parser.add_argument("deployment", choices=("mongo", "maria"))
    parser.add_argument("--no-build", action="store_true", help="use the existing images")
    options = parser.parse_args()
    proof = Proof(options.deployment, build=not options.no_build)
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored: nothing may be left running
        signal.signal(number, signal.default_int_handler)
    try:
        asyncio.run(proof.run())
        sizes = proof.summary()
    except (ProofError, ComplexSystemError) as error:
        raise SystemExit(f"compose-test {options.deployment} failed: {error}") from error
    target = ROOT / "build" / f"compose-test-{options.deployment}.md"
    Path(target).write_text(sizes + "\n", encoding="utf-8")
    sys.stdout.write(f"\n{sizes}\n")


if __name__ == "__main__":
    main()
