"""A database for each test: one and the same, cleaned and under another name, as long as tests leave it small.

To make one and to drop it takes over twenty times as long as to empty one. Whoever is still connected is thrown out,
and who would come back does not find it under its old name.
"""

import secrets

import sqlalchemy as sa

from infra.database import upgrade

TEMPLATE = "fanfold_template"
KEPT_BYTES_MAX = 8 << 20  # of its tables: one that grew has statistics and empty pages that a new one lacks

_THROW_OUT = sa.text("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = :name")
_TABLES = sa.text(
    "SELECT relname, pg_total_relation_size(oid) AS size FROM pg_class "
    "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)
_RESTART = sa.text("SELECT setval(schemaname || '.' || sequencename, 1, false) FROM pg_sequences")
_FORGET_STATISTICS = sa.text("SELECT pg_stat_reset()")


class TestDatabases:
    """Of one server. `lend` and `take_back` take turns."""

    __test__ = False  # its name is no test's

    def __init__(self, server_url: str) -> None:
        self._url = sa.make_url(server_url)
        self._server = sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
        self._kept: str | None = None  # clean, and nobody's
        self._execute(f"CREATE DATABASE {TEMPLATE}")
        upgrade(self._url_of(TEMPLATE))
        self._first_rows = self._rows(TEMPLATE)

    def close(self) -> None:
        """The databases stay: their server is about to go."""
        self._server.dispose()

    def lend(self) -> str:
        """The URL of a migrated database in which nothing is."""
        name = f"test_{secrets.token_hex(6)}"
        if self._kept is None:
            self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        else:
            self._execute(f"ALTER DATABASE {self._kept} RENAME TO {name}")
            self._kept = None
        return self._url_of(name)

    def take_back(self, url: str) -> None:
        """What was lent."""
        name = sa.make_url(url).database
        assert name is not None
        hidden = f"{name}_kept"
        with self._server.connect() as connection:
            connection.execute(_THROW_OUT, {"name": name})
            try:
                connection.execute(sa.text(f"ALTER DATABASE {name} RENAME TO {hidden}"))
            except sa.exc.OperationalError:  # somebody came back at once
                connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
                return
        if self._clean(hidden):
            self._kept = hidden
        else:
            self._execute(f"DROP DATABASE {hidden} WITH (FORCE)")

    def _clean(self, name: str) -> bool:
        """Whether it is as new; False when it is easier to make another one."""
        engine = sa.create_engine(self._url_of(name), poolclass=sa.NullPool)
        with engine.begin() as connection:
            sizes: dict[str, int] = {row.relname: row.size for row in connection.execute(_TABLES)}
            if set(sizes) != set(self._first_rows) or sum(sizes.values()) > KEPT_BYTES_MAX:
                return False
            # No order of foreign keys to follow, and no triggers to run.
            emptied = "; ".join(f"DELETE FROM {table}" for table in sizes)
            connection.execute(sa.text(f"SET LOCAL session_replication_role = replica; {emptied}"))
            for table, rows in self._first_rows.items():
                if rows:
                    columns = rows[0].keys()
                    values = ", ".join(f":{column}" for column in columns)
                    connection.execute(sa.text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"), rows)
            connection.execute(_RESTART)
            connection.execute(_FORGET_STATISTICS)
        return True

    def _rows(self, name: str) -> dict[str, list[dict[str, object]]]:
        """All that is in its tables."""
        engine = sa.create_engine(self._url_of(name), poolclass=sa.NullPool)
        with engine.connect() as connection:
            tables = [table for table, _ in connection.execute(_TABLES)]
            found = {table: connection.execute(sa.text(f"SELECT * FROM {table}")).mappings() for table in tables}
            return {table: [dict(row) for row in rows] for table, rows in found.items()}

    def _url_of(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _execute(self, statement: str) -> None:
        with self._server.connect() as connection:
            connection.execute(sa.text(statement))
