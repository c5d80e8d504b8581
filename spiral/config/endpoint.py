"""An entry of the config's `endpoints` section."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from spiral.config.section import Count, Natural, NonNegative, Positive, Section


def _check_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^@\s]+", text):
        raise ValueError("expected http://... or https://..., without a key")
    return text


def _check_player_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", text):
        raise ValueError("a name begins with a letter, and has letters, digits, '_', '.' and '-'")
    return text


PlayerName = Annotated[str, AfterValidator(_check_player_name)]
"""What an endpoint is called among players."""


class EndpointConfig(Section):
    """A model behind an OpenAI-compatible endpoint, such as `vllm serve` or a hosted model."""

    model: str
    """The model's name at the endpoint."""
    url: Annotated[str, AfterValidator(_check_url)]
    """Base URL, such as http://host:8000/v1, without a key. Every machine with a generator must reach it."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, on the machines with generators. An endpoint without keys needs none."""
    timeout_s: Positive = 120.0
    """Time limit of a request."""
    retries: Natural = 4
    """Further attempts, with growing pauses, where a request times out, is refused, or answered with 429 or 5xx."""
    at_once: Count = 32
    """Requests of one generator at the same time."""
    price: tuple[NonNegative, NonNegative] = (0.0, 0.0)
    """Price of a million prompt tokens and of a million completion tokens, in any currency."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Additions to the body of each request, such as {seed: 1}; a null removes a key from it."""
