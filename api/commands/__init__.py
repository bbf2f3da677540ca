"""The commands, grouped by what they are about; `api.cli` puts them together."""
