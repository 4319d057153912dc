"""The other side: what runs inside a predictor on Replicate."""
