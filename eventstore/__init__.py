"""The log: what happened, in the order in which it was recorded, for ever.

The database is authoritative. A position exists when the transaction that wrote it has
committed, and then every position below it exists too; nothing here counts, numbers or
deduplicates in memory. Payloads are sealed with a key per user before they leave the process.

This package knows neither what a delivery looks like (`projections.deliveries`) nor how one
arrives (`api`), and imports neither.
"""
