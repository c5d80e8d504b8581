"""`spiral arena`: matches between any players, resumable, and what they say about strength."""
