"""Learning: baselines (RAE), samples, packing, the loss, the learner, checkpoints and published weights."""
