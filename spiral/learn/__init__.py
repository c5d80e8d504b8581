"""The learner: advantages (RAE), samples, the loss, optimizer steps, checkpoints and published weights."""
