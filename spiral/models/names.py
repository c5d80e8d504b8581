"""Names of the built-in models."""

TINY = "builtin/tiny"
TINY_CONTEXT = 1024  # tokens
SMOLLM2 = "builtin/smollm2-135m-instruct"
