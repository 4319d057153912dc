"""The road to an OpenAI-compatible endpoint: one gate per model, groups, retries, streams that resume."""
