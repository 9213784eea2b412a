"""The command line, and the only place that knows all other packages."""
