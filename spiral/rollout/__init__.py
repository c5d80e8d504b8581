"""Playing: prompts, players, one coroutine per episode, and the generator actor that holds the vLLM engine."""
