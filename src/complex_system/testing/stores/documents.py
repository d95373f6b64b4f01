"""Documents of monitoring, in the data store that they live in."""

from __future__ import annotations

import pytest

from complex_system.domain.documents import MAX_BODY_BYTES, Document
from complex_system.errors import InvalidRequestError, StoreUnavailableError
from complex_system.storage.base import DataStore
from complex_system.testing.stores.base import StoreHooks


def document(key: str, at: float, kind: str = "minute", **body: object) -> Document:
    """Return a document of a kind."""
    return Document(kind, key, at, body)


class DocumentCases(StoreHooks):
    """Cases of documents."""

    async def test_documents_come_back_as_they_were_saved(self, store: DataStore) -> None:
        """Keys, times and bodies of any JSON come back as they were, ordered by key."""
        body = {"a.b": {"$c": [1, 0.1 + 0.2, None, True, "ü\u2028😀"]}, "": {}, "i": 2**53}
        odd = [Document("alert", key, 1.0 / 3.0, body) for key in ("a|b", "ä 'x' \"y\" `z` ? %s \\", "A", "a", "x" * 200)]
        await store.documents.save(odd)
        found = await store.documents.by_keys("alert", [d.key for d in odd] + ["missing"])
        assert found == sorted(odd, key=lambda d: d.key)
        assert await store.documents.between("alert", 0.0, 1.0) == sorted(odd, key=lambda d: d.key)
        assert await store.documents.by_keys("minute", ["a"]) == []
        assert await store.documents.by_keys("alert", []) == []

    async def test_a_document_of_the_same_kind_and_key_is_replaced(self, store: DataStore) -> None:
        """A document replaces the one of its kind and key, with another time, too; of equal ones in a request the last counts."""
        await store.documents.save([document("k", 1.0, n=1), document("k", 2.0, n=2), document("k", 3.0, "hour", n=9)])
        await store.documents.save([document("k", 5.0, n=3)])
        assert await store.documents.between("minute", 0.0, 10.0) == [document("k", 5.0, n=3)]
        assert await store.documents.between("hour", 0.0, 10.0) == [document("k", 3.0, "hour", n=9)]

    @pytest.mark.parametrize("newest_first", [False, True])
    async def test_pages_by_time_and_key_hold_each_document_once(self, store: DataStore, newest_first: bool) -> None:
        """Pages between two times go by time and key, in either direction, and continue after the last document of a page."""
        # Several of one time, and a page's end among them.
        saved = [document(f"k{i:02}", float(i // 4), n=i) for i in range(30)]
        await store.documents.save(saved[::-1])
        wanted = [d for d in saved if 1.0 <= d.at < 6.0]
        if newest_first:
            wanted.reverse()
        found: list[Document] = []
        while True:
            after = found[-1].cursor if found else None
            page = await store.documents.between("minute", 1.0, 6.0, newest_first=newest_first, limit=3, after=after)
            assert len(page) <= 3
            found += page
            if len(page) < 3:
                break
        assert found == wanted

    async def test_what_is_old_is_forgotten_and_the_rest_stays(self, store: DataStore) -> None:
        """Documents are deleted by time or by key, of one kind only, and the number of those that were there is returned."""
        await store.documents.save([document(f"k{i}", float(i)) for i in range(60)] + [document("k0", 0.0, "hour")])
        assert await store.documents.delete_before("minute", 50.0) == 50
        assert await store.documents.delete_before("minute", 50.0) == 0
        assert await store.documents.delete_keys("minute", [f"k{i}" for i in range(20, 58)]) == 8
        assert [d.key for d in await store.documents.between("minute", 0.0, 100.0)] == ["k58", "k59"]
        assert len(await store.documents.between("hour", 0.0, 100.0)) == 1

    async def test_a_body_that_is_no_json_or_too_large_is_refused_and_nothing_written(self, store: DataStore) -> None:
        """One document that cannot be kept refuses the request and is named; none of the others is written."""
        for bad in ({"x": object()}, {"x": "y" * MAX_BODY_BYTES}):
            with pytest.raises(InvalidRequestError, match="'bad'"):
                await store.documents.save([document("good", 1.0), document("bad", 1.0, **bad)])
        assert await store.documents.between("minute", 0.0, 2.0) == []

    async def test_documents_of_a_store_that_is_closed_say_so(self, store: DataStore) -> None:
        """Documents raise ``StoreUnavailableError`` where the store is not open."""
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.documents.save([document("k", 1.0)])
        with pytest.raises(StoreUnavailableError):
            await store.documents.between("minute", 0.0, 1.0)
