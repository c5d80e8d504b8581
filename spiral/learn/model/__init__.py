"""The model under training: forward pass, trainable parameters, sharding and the optimizer."""
