"""The servers that ``fiot run`` and the tests start, side by side on one machine."""

from __future__ import annotations

from pathlib import Path

import mariadb

from complex_system.local.servers import HOST, Server


def test_a_mariadb_keeps_its_temporary_tables_apart_from_those_of_others(maria_server: Server) -> None:
    # One that starts removes all that it finds: seen as "Unknown table 'mysql.tmp_user_sys'" of another's first start.
    with mariadb.connect(host=HOST, port=maria_server.port, user="root") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@tmpdir")
        assert Path(cursor.fetchone()[0]) == maria_server.directory / "tmp"
