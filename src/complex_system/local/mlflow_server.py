"""``mlflow server`` in one process: MLflow's own command imports MLflow twice, once to check and once to serve.

MLflow's server has a virtual environment of its own, without our packages, so that Python runs this file by its path:
``.venv-mlflow/bin/python -I mlflow_server.py PORT FOLDER``. Data are in the folder: SQLite and files. The server asks for the user and
the password in ``MLFLOW_AUTH_ADMIN_USERNAME`` and ``MLFLOW_AUTH_ADMIN_PASSWORD``, where they are set. Without arguments it makes an
empty database in that environment, which takes a second of each first start otherwise.

In the container of MLflow's own image it runs beside MLflow's command, as ``python mlflow_server.py SECONDS``: it frees the room of
deleted monitoring runs so often, in the store that ``MLFLOW_BACKEND_STORE_URI`` names.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
COLLECT_SECONDS = 600
"""Seconds between two looks for deleted runs of monitoring."""
DATABASE = "mlflow.db"
EMPTY = Path(sys.prefix, "empty.db")
"""A database with all tables and nothing in them, made with the environment."""
AUTH_CONFIG = """[mlflow]
default_permission = READ
database_uri = sqlite:///{accounts}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
"""Without the cache every request pays for a slow hash of the password."""


def main(port: int, folder: Path) -> None:
    """Serve until SIGTERM."""
    secured = bool(os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD"))
    database = folder / DATABASE
    store = f"sqlite:///{database}"
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost,localhost:*,127.0.0.1,127.0.0.1:*",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if secured:
        _prepare_accounts(folder)
    gc.disable()  # the collector looks at what the imports keep again and again: a quarter of the start
    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    if not database.exists() and EMPTY.exists():
        _copy(EMPTY, database)
    _upgrade(database)
    initialize_backend_stores(store, store, "mlflow-artifacts:/")
    served: Any = importlib.import_module("mlflow.server.auth" if secured else "mlflow.server.fastapi_app")
    app = served.create_app() if secured else served.app
    gc.freeze()
    gc.enable()
    threading.Thread(target=collect, args=(store, COLLECT_SECONDS), daemon=True).start()
    uvicorn.run(app, host=HOST, port=port, log_level="warning")


def collect(store: str, seconds: float) -> None:
    """Free the room of deleted monitoring runs, so often, without an end."""
    from sqlalchemy.exc import SQLAlchemyError

    while True:
        time.sleep(seconds)  # before the first look, too: MLflow makes the tables
        try:
            collect_metrics(store)
        except SQLAlchemyError as error:  # locked, or full: the next turn goes on
            logging.warning("The room of deleted monitoring runs is not free yet: %s", error)


def collect_metrics(store: str) -> int:
    """Delete the metrics of monitoring's deleted runs; return how many there were.

    MLflow keeps a deleted run until ``mlflow gc``, which loads all of its metrics into memory: of a day of monitoring a million. Here
    they go name by name, a day's values of one figure in a transaction, so that the server does not wait for long.

    Args:
        store: The server's database, as SQLAlchemy writes it.
    """
    from sqlalchemy import column, create_engine, delete, select, table

    runs = table("runs", column("run_uuid"), column("lifecycle_stage"))
    tags = table("tags", column("run_uuid"), column("key"), column("value"))
    # The newest value of each name goes last: it says what is left.
    metrics, newest = (table(name, column("run_uuid"), column("key")) for name in ("metrics", "latest_metrics"))
    ours = (runs.c.lifecycle_stage == "deleted") & (tags.c.key == "kind") & (tags.c.value == "monitoring")
    ended = select(runs.c.run_uuid).join(tags, runs.c.run_uuid == tags.c.run_uuid).where(ours)
    deleted = 0
    engine = create_engine(store, connect_args={"timeout": 30} if store.startswith("sqlite:") else {})
    try:
        with engine.connect() as connection:
            found = select(newest.c.run_uuid, newest.c.key).where(newest.c.run_uuid.in_(ended))
            for run, name in connection.execute(found).all():
                for each in (metrics, newest):
                    deleted += connection.execute(delete(each).where(each.c.run_uuid == run, each.c.key == name)).rowcount
                connection.commit()
    finally:
        engine.dispose()
    return deleted


def _prepare_accounts(folder: Path) -> None:
    """Make the accounts anew: there is one, and its password is the one that is given now."""
    accounts = folder / "accounts.db"
    accounts.unlink(missing_ok=True)
    accounts.touch(mode=0o600)
    config = folder / "accounts.ini"
    config.write_text(AUTH_CONFIG.format(accounts=accounts), encoding="utf-8")
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(config)


def _upgrade(database: Path) -> None:
    """Bring the database of an older server to this one's tables. The old file is kept beside it.

    A migration that is interrupted may leave a database between two versions, so it is done in a copy.
    """
    if not database.exists():
        return
    from sqlalchemy import create_engine

    utils: Any = importlib.import_module("mlflow.store.db.utils")
    engine = create_engine(f"sqlite:///{database}")
    found, wanted = utils._get_schema_version(engine), utils._get_latest_schema_revision()
    engine.dispose()
    if found in (None, wanted):  # None: a first start was interrupted
        return
    kept, upgraded = database.with_name(f"mlflow-{found}.db"), database.with_name(f"{DATABASE}.upgraded")
    shutil.copyfile(database, upgraded)
    engine = create_engine(f"sqlite:///{upgraded}")
    utils._upgrade_db(engine)
    engine.dispose()
    if not kept.exists():
        os.link(database, kept)
    upgraded.replace(database)


def make_empty_database() -> None:
    """Make :data:`EMPTY`."""
    from sqlalchemy import create_engine

    EMPTY.unlink(missing_ok=True)
    utils: Any = importlib.import_module("mlflow.store.db.utils")
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # declares all tables
    logging.getLogger(utils.__name__).setLevel(logging.WARNING)  # that it makes tables is nothing to heed
    new = EMPTY.with_name("empty.db.new")
    new.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{new}")
    utils._initialize_tables(engine)
    engine.dispose()
    new.replace(EMPTY)


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that the target is never seen half written."""
    new = target.with_name(f"{target.name}.new")
    shutil.copyfile(source, new)
    new.replace(target)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [seconds]:
            collect(os.environ["MLFLOW_BACKEND_STORE_URI"], float(seconds))
        case [port, folder]:
            main(int(port), Path(folder))
        case _:
            make_empty_database()
