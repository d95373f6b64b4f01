"""Doors of a running stack: what a stranger is refused, what one service is refused of another, and how containers are confined."""

from __future__ import annotations

from pathlib import Path

import httpx
import nats.errors
from nats.aio.client import Client

from complex_system.deploy.containers import container_variables, is_secret
from complex_system.messaging.permissions import declared_subjects
from complex_system.messaging.users import service_user
from compose.stack import Container, ProofError, call

OF_SERVERS = {
    "nats": "NATS", "mongodb": "MONGO_DB_PASSWORD", "mariadb": "MARIA", "mlflow": "MLFLOW", "prometheus": "API_KEY",
    "ray_head": "RAY_AUTH", "ray_worker": "RAY_AUTH",
}  # fmt: skip
"""The servers, and what the names of their secrets contain."""
PUBLISH = """
import asyncio, sys
from complex_system.messaging.connection import ServiceConnection
from complex_system.settings import Settings

async def main():
    connection = await ServiceConnection.open(Settings(), "proof", patience=20)
    await connection.client.publish(sys.argv[1], b"")
    await connection.settle()
    print(connection.refusals)
    await connection.close()

asyncio.run(main())
"""


async def closed_to_strangers(environment: dict[str, str]) -> str:
    """Broker, REST and MLflow ask for credentials."""

    async def ignore(_: Exception) -> None:
        return

    try:
        address = f"nats://127.0.0.1:{environment['FASTIOT_NATS_PORT']}"
        await Client().connect(address, allow_reconnect=False, error_cb=ignore, connect_timeout=5)
        raise ProofError("NATS lets a client without a password in")
    except nats.errors.Error as error:
        refusal = str(error)
    async with httpx.AsyncClient(trust_env=False) as http:
        rest = await http.get(f"http://127.0.0.1:{environment['COMPLEX_SYSTEM_SERVING_MLFLOW_PORT']}/model")
        page = await http.get(f"http://127.0.0.1:{environment['COMPLEX_SYSTEM_MONITORING_PORT']}/api/metric")
        mlflow = await http.post(f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search", json={})
    for name, answer in (("REST", rest), ("monitoring", page), ("MLflow", mlflow)):
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            raise ProofError(f"{name} answers {answer.status_code} to a client without credentials: {answer.text[:200]}")
    return f"without credentials: NATS says '{refusal}'; REST, monitoring and MLflow answer 401"


def closed_to_each_other(services: list[Container]) -> str:
    """Each service, in its container and with its own user, publishes on a subject that is not its own."""
    for each in services:
        own = service_user(each.service).publish or ()
        foreign = next(subject for subject in declared_subjects() if subject not in own)
        said = call("docker", "exec", each.id, "python", "-c", PUBLISH, foreign)
        if f"does not permit the user '{each.service}' to publish on '{foreign}'" not in said:
            raise ProofError(f"{each.service} was not refused '{foreign}': {said}")
    return "each service, with its own user, is refused a subject of another one"


def confined(containers: list[Container]) -> str:
    """No container may do what it need not."""
    if loose := {each.service: each.too_free for each in containers if each.too_free}:
        raise ProofError(f"Containers that are not confined: {loose}")
    return "every container: read-only root, no capabilities but what its image needs, limits of memory and processes"


def secrets_apart(containers: list[Container], env_file: Path) -> str:
    """No container's environment has a secret of another one."""
    lines = env_file.read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    # The name of a user is no secret: servers may have users of one name.
    secrets = {
        name: value for name, value in given.items() if is_secret(name, value) and value and not name.endswith("USERNAME")
    }
    held = 0
    for each in containers:
        if each.service in OF_SERVERS:
            own = {name for name in secrets if OF_SERVERS[each.service] in name}
        else:
            values = container_variables(each.service, given).values()
            own = {name for name, value in secrets.items() if value in values}
        foreign = [name for name, value in secrets.items() if value in each.variables.values() and name not in own]
        if foreign:
            raise ProofError(f"{each.service} has secrets of others: {foreign}")
        held += len(own)
    return f"{len(secrets)} secrets, given {held} times: no container has a secret of another one"
