"""Phrases in a text: where they must not be, and where they end it.

aho_corasick   finds which of many phrases a text holds
not_in         text without certain phrases
stop           text up to a phrase; what watches the stop strings of a request
"""
