"""Where records come from, and what happens to them on the way into the database."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseSettings, Field


class RecordSettings(BaseSettings):
    """Source, processing, ingest and collection."""

    # Data: source and processing
    on_conflict: Literal["keep", "replace"] = Field(
        "keep",
        description="What the database does with other values under a key that exists: keep the first ones, or replace them by newer",
    )
    source_file: str = Field(
        "",
        description="File of records to read (CSV, Excel, JSON, Parquet), relative to the config folder; empty for lab records",
    )
    source_order: str = Field(
        "file", description="Order of a replayed file: file, shuffled, or the name of its column of type datetime"
    )
    source_rate: float = Field(0.0, ge=0, description="Records of a replayed file that are sent per second; 0 for no limit")
    source_repeat: int = Field(
        1, ge=0, description="How many times a file is replayed, from the second time on under new keys; 0 for no end"
    )
    source_interval: float = Field(
        2.0, gt=0, description="Seconds between two looks of the source at its file, folder or table"
    )
    source_folder: str = Field(
        "", description="Folder of which each file is read once, relative to the config folder; empty for none"
    )
    source_files: str = Field(
        "*", description="Which files of the folder are read, such as *.csv, or **/*.csv for those of folders in it, too"
    )
    source_table: str = Field(
        "", description="SQL table or view whose new rows are read, such as parts or mes.parts; empty for none"
    )
    source_table_url: str = Field(
        "", repr=False, description="SQLAlchemy URL of the table's database, with user and password; it is never logged"
    )
    source_table_cursor: str = Field(
        "", description="Column by which new rows of the table are found: a number or a time that only grows"
    )
    source_table_unique: str = Field(
        "", description="Column of the table that is unique; empty for the records' key, or the primary key"
    )
    source_table_overlap: float = Field(
        300.0,
        ge=0,
        description="How far behind the newest row the table is read again, for transactions that commit late: a number, or seconds",
    )
    source_name: str = Field(
        "",
        max_length=150,
        description="Name of the folder or table in keys that are made for its rows, which keeps them when it moves; empty for "
        "the folder's name, or host, database and table",
    )
    opcua_file: str = Field(
        "",
        description="Declaration of the nodes of an OPC UA server to read, such as opcua.yaml, relative to the config folder",
    )
    opcua_user: str = Field("", description="User at the OPC UA server, empty for none")
    opcua_password: str = Field("", repr=False, description="Password at the OPC UA server")
    records: int = Field(10_000, ge=0, description="Number of records that the source makes at its start")
    seed: int = Field(1, description="Seed of the lab records and of the trainers")
    batch_size: int = Field(500, ge=1, le=20_000, description="Records in one batch of the source")
    batches_in_flight: int = Field(
        4, ge=1, le=64, description="Batches that the source sends without waiting for their replies"
    )
    source_sends: Literal["requests", "messages"] = Field(
        "requests", description="Send requests to the database service, or messages that JetStream stores"
    )
    live_rate: float = Field(2.0, ge=0, description="New records per second once the first ones are saved; 0 for none")
    scenario: Literal["normal", "shift", "noise", "missing", "concept", "new_category"] = Field(
        "normal", description="Scenario of the lab's live records"
    )
    scenario_ramp: float = Field(300.0, ge=0, description="Seconds until the scenario shift reaches its full extent")
    processing_interval: float = Field(1.0, gt=0, description="Seconds between searches for unprocessed raw records")
    processing_batch: int = Field(4000, ge=1, le=20_000, description="Raw records processed in one batch")

    # Ingest: records that are published and kept by JetStream
    ingest: bool = Field(True, description="Accept published records, too; needs a broker with JetStream")
    ingest_bytes: int = Field(
        1_073_741_824, ge=1_000_000, description="Bytes that may wait for the database; further messages are refused"
    )
    ingest_age: float = Field(0.0, ge=0, description="Seconds that a published message may wait; 0 for no limit")
    ingest_source_messages: int = Field(
        100_000, ge=1, description="Messages of one source that may wait for the database; further ones of it are refused"
    )
    ingest_dead_bytes: int = Field(
        134_217_728, ge=1_000_000, description="Bytes of dead letters that are kept; further refused messages wait"
    )
    ingest_dead_share: int = Field(
        1000, ge=1, description="Dead letters of one source that are kept; further refused messages of it wait"
    )
    ingest_dead_age: float = Field(
        0.0, ge=0, description="Seconds after which the broker drops a dead letter; 0 to keep it until somebody removes it"
    )
    ingest_replicas: int = Field(1, ge=1, le=5, description="Brokers of a cluster that store each published message")
    ingest_messages: int = Field(500, ge=1, le=10_000, description="Published messages in one fetch")
    ingest_batch: int = Field(5000, ge=1, le=100_000, description="Published records in one write")

    # Collection of readings, where `collect` is declared
    collect_age: float = Field(
        86_400.0, ge=60, description="Seconds that readings are kept in their stream; longer than any window, and any stop"
    )
    collect_bytes: int = Field(
        1_073_741_824,
        ge=1_000_000,
        description="Bytes of readings that are kept in their stream; beyond, the oldest are dropped",
    )
    collect_durable: bool = Field(
        True,
        description="Whether a reading is on the broker's disk before it is acknowledged; false is many times as fast, and a crash of "
        "the broker costs the newest moment. For a stream that is created anew",
    )
    collect_batch: int = Field(500, ge=1, le=10_000, description="Messages with readings in one fetch")

    @property
    def reads_records(self) -> bool:
        """Whether the source reads a file, a folder or a table, instead of making lab records."""
        return bool(self.source_file or self.source_folder or self.source_table)
