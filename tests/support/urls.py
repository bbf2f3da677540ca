"""Database URLs with a mistake, and words of the sentence about it.

Wherever it is possible the password stands in them.
"""

from __future__ import annotations

PASSWORD = "hunter2"
WRONG = {
    "quotes": (f"'postgresql://u:{PASSWORD}@h/d'", ["quotes"]),
    "blank": (f"postgresql://u:{PASSWORD} x@h/d", ["%20"]),
    "line-break": (f"postgresql://u:{PASSWORD}@h/d\n", ["line break"]),
    "no-scheme": (f"u:{PASSWORD}@h/d", ["postgresql://"]),
    "another-driver": (f"postgresql+asyncpg://u:{PASSWORD}@h/d", ["without the name of a driver"]),
    "another-scheme": (f"mysql://u:{PASSWORD}@h/d", ["postgresql://"]),
    "jdbc": (f"jdbc:postgresql://h/d?password={PASSWORD}", ["postgresql://"]),
    "key-value": (f"host=h dbname=d password={PASSWORD}", ["%20"]),
    "nothing-behind": ("postgresql://", ["postgresql://"]),
    "hash": (f"postgresql://u:{PASSWORD}#x@h/d", ["%23"]),
    "slash": (f"postgresql://u:{PASSWORD}/x@h/d", ["%2F"]),
    "question": (f"postgresql://u:{PASSWORD}?x@h/d", ["%3F"]),
    "at": (f"postgresql://u:{PASSWORD}@x@h/d", ["%40"]),
    "percent": (f"postgresql://u:{PASSWORD}%x@h/d", ["%25"]),
    "percent-at-the-end": (f"postgresql://u:{PASSWORD}%@h/d", ["%25"]),
    "brackets": (f"postgresql://u:{PASSWORD}@[::1/d", ["[ ]"]),
    "no-database": (f"postgresql://u:{PASSWORD}@h", ["name of the database"]),
    "no-database-but-a-slash": (f"postgresql://u:{PASSWORD}@h/", ["name of the database"]),
    "port-is-text": (f"postgresql://u:{PASSWORD}@h:{PASSWORD}/d", ["a port is a number"]),
    "no-port": (f"postgresql://u:{PASSWORD}@h:/d", ["a port is a number"]),
    "large-port": (f"postgresql://u:{PASSWORD}@h:65536/d", ["a port is a number"]),
    "ports": (f"postgresql://u:{PASSWORD}@/d?host=a,b,c&port=1,2", ["one port for all hosts"]),
    "no-parameter": (f"postgresql://u:{PASSWORD}@h/d?{PASSWORD}", ["name=value"]),
    "unknown-parameter": (f"postgresql://u:{PASSWORD}@h/d?schema={PASSWORD}", ["schema is not"]),
    "no-name": (f"postgresql://u@h/d?{PASSWORD}=1", ["can't be one"]),
    "sslmode": (f"postgresql://u@h/d?sslmode={PASSWORD}", ["sslmode can be disable"]),
    "standby": ("postgresql://u@h/d?target_session_attrs=standby", ["target_session_attrs can be"]),
    "binding": ("postgresql://u@h/d?channel_binding=require", ["channel_binding can be"]),
    "all-at-once": (
        f"postgresql://u:{PASSWORD}@h:x?schema=a&sslmode=b",
        ["name of the database", "a port is a number", "schema is not", "sslmode can be"],
    ),
}
