"""Constrained generation over an API that shows no logits. No HTTP here: see `endpoint_api.Asker`."""
