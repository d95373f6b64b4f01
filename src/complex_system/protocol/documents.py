"""The database service's subjects for the documents that monitoring keeps."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from complex_system.protocol.base import Message, Request
from complex_system.protocol.database import MAX_KEYS, Acknowledged, Keys

DocumentKey = Annotated[str, Meta(min_length=1, max_length=200)]
DocumentKind = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,31}$")]
MAX_DOCUMENTS = MAX_KEYS
"""Documents in one request and in one page."""


class DocumentMessage(Message, frozen=True, kw_only=True):
    """A document that monitoring keeps in the database.

    Attributes:
        kind: Lower-case letters, digits and hyphens, at most 32.
        key: Unique within the kind.
        at: The time that it belongs to, seconds since 1970 (UTC).
        body: JSON values, at most 512 KiB.
    """

    kind: DocumentKind
    key: DocumentKey
    at: float
    body: dict[str, Any]


class DocumentsRequest(Message, frozen=True, kw_only=True, omit_defaults=True, rename={"start": "from", "end": "to"}):
    """Asks for documents of a kind: by keys, or a page of those with ``from <= at < to``.

    Attributes:
        kind: Which documents.
        keys: Keys of the wanted documents; None for those of a period.
        start: Begin of the period, seconds since 1970 (UTC).
        end: End of the period.
        newest_first: In falling order of time and key.
        limit: Documents of the page.
        after: ``(at, key)`` of the last document of the page before.
    """

    kind: DocumentKind
    keys: Keys | None = None
    start: float | None = None
    end: float | None = None
    newest_first: bool = False
    limit: int | None = None
    after: tuple[float, DocumentKey] | None = None


class Documents(Message, frozen=True, kw_only=True):
    """A page of documents.

    Attributes:
        documents: The documents.
        next: What to ask ``after`` for the next page; None after the last one.
    """

    documents: list[DocumentMessage]
    next: tuple[float, str] | None = None


class DeleteDocuments(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Deletes documents of a kind: those with the keys, or those from before a time.

    Attributes:
        kind: Which documents.
        keys: Their keys.
        before: Seconds since 1970 (UTC).
    """

    kind: DocumentKind
    keys: Keys | None = None
    before: float | None = None


class DocumentsSaved(Acknowledged, frozen=True, kw_only=True):
    """Confirms documents.

    Attributes:
        saved: Documents that were written.
    """

    saved: int


class DocumentsDeleted(Acknowledged, frozen=True, kw_only=True):
    """Confirms that documents are gone.

    Attributes:
        deleted: Documents that were deleted.
    """

    deleted: int


SAVE_DOCUMENTS = Request(
    "save-monitoring-documents",
    list[DocumentMessage],
    DocumentsSaved,
    "Save documents; one of the same kind and key is replaced.",
)
GET_DOCUMENTS = Request("get-monitoring-documents", DocumentsRequest, Documents, "Return documents by keys or by period.")
DELETE_DOCUMENTS = Request(
    "delete-monitoring-documents",
    DeleteDocuments,
    DocumentsDeleted,
    "Delete documents by keys or by age.",
)
