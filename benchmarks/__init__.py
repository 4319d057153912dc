"""A script per claim; see README.md. Not packaged."""
