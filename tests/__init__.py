import tests.hub  # noqa: F401  (before the hub's clients, which read its address once)
