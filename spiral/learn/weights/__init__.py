"""Weights on their way out of the learner: publishing, transfer over NCCL, checkpoints and exports."""
