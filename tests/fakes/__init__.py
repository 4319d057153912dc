"""Stand-ins with a closed form, for tests that need to know the right answer."""
