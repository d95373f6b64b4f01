"""The servers that a deployment needs, started on this machine: NATS, MongoDB's wire protocol, MariaDB, MLflow."""

from __future__ import annotations

from complex_system.local.servers.base import ANY_PORT, HOST, Server, free_port, program, reachable
from complex_system.local.servers.maria import MariaServer
from complex_system.local.servers.mlflow import MlflowServer
from complex_system.local.servers.mongo import MongoServer
from complex_system.local.servers.nats import NATS_MAX_PAYLOAD, NatsServer

SERVERS: dict[str, type[Server]] = {server.name: server for server in (NatsServer, MongoServer, MariaServer, MlflowServer)}
"""The servers, by their name among a deployment's infrastructure services."""
DATABASES = (MongoServer.name, MariaServer.name)
"""The servers that only programs talk to; they always ask for a password."""

__all__ = [
    "ANY_PORT",
    "DATABASES",
    "HOST",
    "NATS_MAX_PAYLOAD",
    "SERVERS",
    "MariaServer",
    "MlflowServer",
    "MongoServer",
    "NatsServer",
    "Server",
    "free_port",
    "program",
    "reachable",
]
