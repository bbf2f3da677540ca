"""Writing what was folded into all read models, in one transaction of the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections import numbers, read_models, tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventstore.postgres.sessions import Connection
    from projections.fold.folder import Folded
    from projections.tables import Generation

_FIRST, _OTHERS = read_models.TABLES[:1], read_models.TABLES[1:]


async def write(connection: Connection, where: Generation, folded: Sequence[Folded]) -> None:
    """Write what is new of some users.

    Their rows of users come first: who has written them is alone with the rest of these users, so
    their history can be read for what it has added to the numbers, and then replaced.
    """
    await tables.write(_FIRST, connection, where, folded)
    whole = [one.stream.stream_id for one in folded if one.whole]
    taken = await numbers.of_users(connection, where, whole) if whole else {}
    await tables.write(_OTHERS, connection, where, folded)
    await numbers.change(connection, where, numbers.added_by(folded), taken)
