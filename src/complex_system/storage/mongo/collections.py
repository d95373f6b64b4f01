"""Makes the collections of a data set ready: follows its declaration, makes indexes, and takes in what others wrote."""

from __future__ import annotations

import logging

from complex_system.domain.dataset import ID, Dataset
from complex_system.storage.arrow import PIPELINE
from complex_system.storage.migrations import refuse_another_data_set, refuse_other_types
from complex_system.storage.mongo.backlog import Backlog
from complex_system.storage.mongo.connection import Collection, MongoConnection, parts
from complex_system.storage.names import TableNames

log = logging.getLogger(__name__)

_DECLARED = "declaration"
"""Key of the note on what was declared."""
_ADOPTED_AT_ONCE = 20_000
_OTHER_KEYS = ["objectId", "number", "binData", "date", "bool", "object"]  # by types, so that the key's index answers


async def follow(connection: MongoConnection, dataset: Dataset, names: TableNames) -> None:
    """Refuses a declaration that the kept records cannot be of, and notes it: MongoDB itself knows no columns.

    Raises:
        DeclarationError: Nothing was changed.
    """
    notes = connection.collection(names.columns)
    kept = await notes.find_one({ID: _DECLARED}) or {}
    types = dict(kept.get("types", ()))
    where = f"The collection {names.raw}"
    refuse_another_data_set(where, kept.get("data_set", ""), dataset)
    refuse_other_types(where, types, dataset)
    types |= {column.name: column.type for column in dataset.columns}
    note = {ID: _DECLARED, "data_set": dataset.name, "types": [[name, kind] for name, kind in types.items()]}
    if note != kept:
        await notes.replace_one({ID: _DECLARED}, note, upsert=True)


async def make_indexes(connection: MongoConnection, names: TableNames) -> None:
    """Makes the indexes, for a server that is read in ranges more of them."""
    await connection.collection(names.raw).create_index([(PIPELINE, 1), (ID, 1)], name="unprocessed")
    if connection.in_ranges:
        await connection.collection(names.processed).create_index([(PIPELINE, 1), (ID, 1)], name="by_version")
        await connection.collection(names.rejected).create_index([("version", 1), (ID, 1)], name="by_version")


async def marks_of(raw: Collection) -> list[str]:
    """Marks of raw records: '', and versions that an earlier release marked them with when they were done.

    A server that reads what it looks for distinct values in is asked for what lies between those that are known.
    """
    known = [""]
    while True:
        # The next text: with "greater than" the server would walk over all that carry the mark itself.
        found = await raw.find_one({PIPELINE: {"$gte": known[-1] + "\0"}}, {PIPELINE: 1}, sort=[(PIPELINE, 1)])
        if found is None:
            return known
        known.append(found[PIPELINE])


async def adopt(raw: Collection, backlog: Backlog) -> None:
    """Lists the raw records that another program wrote, which carry no mark, and gives them one."""
    while True:
        query = {PIPELINE: None, ID: {"$type": "string"}}
        theirs = [document[ID] async for document in raw.find(query, {ID: 1}).limit(_ADOPTED_AT_ONCE)]
        if not theirs:
            return
        await backlog.note(theirs)
        for part in parts(theirs):  # and no others, which that program may write meanwhile
            await raw.update_many({ID: {"$in": part}}, {"$set": {PIPELINE: ""}})


async def warn_of_foreign_keys(raw: Collection) -> None:
    """Keys of other types are in no page, because pages are walked by the order of texts."""
    foreign = await raw.count_documents({ID: {"$type": _OTHER_KEYS}})
    if foreign:
        log.warning(
            "%s has %d raw record(s) whose '_id' is no text, such as MongoDB's own ObjectId: they are counted as raw and never "
            "processed. Write keys as texts.",
            raw.name,
            foreign,
        )
