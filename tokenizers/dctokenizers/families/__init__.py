"""One module per tokenizer family."""
