"""Lies here so that pytest puts this folder on the path: every test can `import references`."""
