"""Configuration: settings and secrets. Only here the environment is read."""
