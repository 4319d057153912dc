"""Continuous batching of sequences over one engine: see `scheduler.Scheduler.step`."""
