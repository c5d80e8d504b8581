"""Files: atomic writing, scratch directories in shared memory, published weights, and the episodes of a run."""
