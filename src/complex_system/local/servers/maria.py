"""MariaDB."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from typing import ClassVar

from typing_extensions import override

from complex_system.errors import StartError
from complex_system.local.credentials import USER, private_folder, write_private
from complex_system.local.servers.base import HOST, Server

_LONGEST_SOCKET = 107
"""Bytes of the path of a socket."""


class MariaServer(Server):
    """Debian's ``mariadbd`` on a data directory of its own.

    Where it asks, its owner is ``root`` over the socket file, and the services have a user with a password who may use one database.
    Otherwise ``root`` needs no password on loopback.

    Attributes:
        database: What the services' user may use; ``%`` for every database.
    """

    name = scheme = "mariadb"
    host_variable, port_variable = "FASTIOT_MARIA_DB_HOST", "FASTIOT_MARIA_DB_PORT"
    default_port = 3306
    database: str = "%"
    socket_name: ClassVar[str] = "mariadb.sock"

    @property
    @override
    def url(self) -> str:
        return f"mariadb://{USER if self.asks else 'root'}@{HOST}:{self.port}"

    @override
    def command(self) -> list[str]:
        binary = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
        if binary is None:
            raise StartError("mariadbd is missing: install the package mariadb-server (apt-get install mariadb-server).")
        accounts = [f"--init-file={self.directory / 'accounts.sql'}"] if self.asks else []
        return [binary, "--no-defaults", *self._own_user(), *self._own_temporary(), f"--datadir={self.directory / 'data'}",
                f"--bind-address={HOST}", f"--port={self.port}", f"--socket={self._socket()}",
                f"--pid-file={self.directory / 'mariadb.pid'}", f"--secure-file-priv={self.directory / 'files'}", *accounts,
                "--skip-name-resolve", "--skip-log-bin", "--local-infile=0",
                "--max-allowed-packet=64M", "--innodb-buffer-pool-size=256M"]  # fmt: skip

    @override
    def prepare(self) -> None:
        private_folder(self.directory / "files")
        if self.asks:
            write_private(self.directory / "accounts.sql", self._accounts())
        data = self.directory / "data"
        if (data / "mysql").is_dir():
            return
        installer = shutil.which("mariadb-install-db")
        if installer is None:
            raise StartError("mariadb-install-db is missing: install the package mariadb-server.")
        # Moved into place in one step: a start that is interrupted here must not leave half a database behind.
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        done = subprocess.run(  # noqa: S603 - our own program and arguments
            [installer, "--no-defaults", *self._own_user(), *self._own_temporary(), f"--datadir={new}", "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StartError(f"mariadb-install-db failed:\n{done.stdout[-800:]}{done.stderr[-800:]}")
        new.rename(data)

    @override
    def environment(self) -> dict[str, str]:
        user, password = (USER, self.password) if self.asks else ("root", "")
        return {**super().environment(), "FASTIOT_MARIA_DB_USER": user, "FASTIOT_MARIA_DB_PASSWORD": password}

    def _accounts(self) -> str:
        """Return the statements that make the accounts. The server runs them at each start, before it accepts a connection."""
        database = self.database.replace("`", "``")
        user = f"'{USER}'@'{HOST}'"
        owner = pwd.getpwuid(os.geteuid()).pw_name
        statements = (
            "DELETE FROM mysql.global_priv WHERE User IN ('', 'root') AND Host <> 'localhost'",
            "FLUSH PRIVILEGES",
            f"ALTER USER IF EXISTS 'root'@'localhost' IDENTIFIED VIA unix_socket AS '{owner}'",
            f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{self.password}'",
            f"ALTER USER {user} IDENTIFIED BY '{self.password}'",
            f"GRANT ALL PRIVILEGES ON `{database}`.* TO {user}",
        )
        return "".join(f"{statement};\n" for statement in statements)

    def _socket(self) -> str:
        path = str(self.directory / self.socket_name)
        # In a folder too deep for it: an abstract socket, which every user of the machine can reach.
        return path if len(path.encode()) <= _LONGEST_SOCKET else f"@complex-system-{self.port}"

    def _own_temporary(self) -> list[str]:
        """A folder for temporary tables: when a server starts, it removes everything there that looks like one."""
        folder = self.directory / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return [f"--tmpdir={folder}"]

    @staticmethod
    def _own_user() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []
