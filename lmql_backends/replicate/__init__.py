"""Models on Replicate: LMTP whose frames travel as predictions, and the Cog predictor that answers them."""
