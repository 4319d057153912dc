import numpy as np
class Workspace: pass
class TorchLogitRows:
    def __init__(self, logits, ws): self.logits=logits
    def to_numpy(self): return self.logits.float().numpy()
