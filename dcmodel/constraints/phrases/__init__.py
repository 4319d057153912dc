"""Phrases in a text: where they must not be, and where they end it."""
