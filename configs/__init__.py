"""Configuration: the typed schema, the loader, and the named configurations (YAML)."""
