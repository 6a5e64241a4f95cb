"""The oldest and the newest libraries that pyproject.toml allows, tried."""
