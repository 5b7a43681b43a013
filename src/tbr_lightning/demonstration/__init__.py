"""The demo's arms and how they are shown."""
