"""Users as someone would model them with `eventsourcing`: an aggregate each, and a projection."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from plain import merged
from psycopg.sql import SQL

if TYPE_CHECKING:
    from uuid import UUID

    from eventsourcing.persistence import Tracking

_VIEW = SQL("CREATE TABLE IF NOT EXISTS latest (id uuid PRIMARY KEY, state json NOT NULL)").format()
_FIND = SQL("SELECT state FROM latest WHERE id = %s")
_PUT = SQL(
    "INSERT INTO latest VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET state = excluded.state"
)
_nth = itertools.count()


class Customer(Aggregate):
    """A user whose latest state is put together from deliveries."""

    class Delivered(Aggregate.Event):
        """A delivery was taken."""

        body: str

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.state: dict[str, Any] = {}

    @event(Delivered)
    def deliver(self, body: str) -> None:
        """Take what a delivery says."""
        self.state = merged(self.state, body)


class Customers(Application["UUID"]):
    """Where they are kept."""

    def add(self, bodies: list[str]) -> UUID:
        """Keep a new user with these deliveries; each is an event, after the first that creates."""
        customer = Customer()
        for body in bodies:
            customer.deliver(body)
        self.save(customer)
        return customer.id

    def at(self, customer_id: UUID, version: int) -> dict[str, Any]:
        """Put a user together as they were at a version."""
        customer: Customer = self.repository.get(customer_id, version=version)
        return customer.state


class Latest(PostgresTrackingRecorder):
    """The latest states; each is written in the transaction that notes how far it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as its parent's
        """Make the table too."""
        super().__init__(*args, **kwargs)
        self.sql_create_statements.append(_VIEW)

    def take(self, customer_id: UUID, body: str, tracking: Tracking) -> None:
        """Fold a delivery onto what is there."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            found = cursor.execute(_FIND, (customer_id,), prepare=True).fetchone()
            state = merged(found["state"] if found else {}, body)
            cursor.execute(_PUT, (customer_id, json.dumps(state)), prepare=True)


class Projecting(Projection[Latest]):
    """Hands deliveries to the view."""

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:  # noqa: ANN401 - its parent's
        """Fold a delivery; whatever else happens is only noted."""
        if isinstance(domain_event, Customer.Delivered):
            self.view.take(domain_event.originator_id, domain_event.body, tracking)
        else:
            self.view.insert_tracking(tracking)


def project(environment: dict[str, str], until: int) -> None:
    """Project everything from the beginning, under a new name."""
    again = type("Again", (Projecting,), {"name": f"again{next(_nth)}"})
    with ProjectionRunner(
        application_class=Customers, projection_class=again, view_class=Latest, env=environment
    ) as runner:
        runner.wait(until, timeout=600)
