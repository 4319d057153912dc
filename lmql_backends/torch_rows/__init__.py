"""Rows of logits in torch (`dcmodel.logits.LogitRows`), for all backends whose logits are torch tensors."""
