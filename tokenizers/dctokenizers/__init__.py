"""Token ids to bytes and back, for every tokenizer family."""
