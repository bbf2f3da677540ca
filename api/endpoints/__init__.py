"""Endpoints: each request of the HTTP interface turned into a call and its answer."""
