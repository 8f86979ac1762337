"""Where libpq's own reading of a connection string is needed.

Tested by tests/store/vault/test_postgres.py.
"""

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict


def check_conninfo(value: str) -> str:
    """A connection string or URI without a password. Raises ValueError, which quotes nothing of it."""
    try:
        parameters = conninfo_to_dict(value)
    except ProgrammingError:  # its message quotes the value
        raise ValueError("not a connection string of PostgreSQL") from None
    if {"password", "sslpassword"} & parameters.keys():
        raise ValueError("a password does not belong here; put it in the connection's passfile")
    return value
