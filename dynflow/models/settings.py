"""What a graph says of a model: one closed set of options, common to all providers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo, model_validator

from dynflow.language.options import FROM_TEXT, Options, TimeLimit

Provider = Literal["llama_cpp", "transformers", "litellm", "ollama", "encoder", "diffusers", "host"]
PROVIDERS: tuple[str, ...] = get_args(Provider)


class Rates(BaseModel):
    """USD per million tokens. A price of which only one side is given is no price (see `known`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    input: float = Field(default=0.0, ge=0, description="USD per million prompt tokens")
    output: float = Field(default=0.0, ge=0, description="USD per million completion tokens, reasoning among them")
    cached: float | None = Field(
        default=None, ge=0, description="USD per million prompt tokens read from the provider's cache; unset: as input"
    )
    cache_write: float | None = Field(
        default=None,
        ge=0,
        description="USD per million prompt tokens written to the provider's cache; unset: as input",
    )


class Tier(Rates):
    """The rates of calls with a long prompt."""

    above: int = Field(ge=0, description="prompt tokens that a call must have more of")


class Price(Rates):
    """USD per million tokens, and per second of local compute."""

    second: float = Field(default=0.0, ge=0, description="USD per second of compute, for local models")
    watts: float | None = Field(
        default=None, gt=0, description="power that one busy core draws, to estimate energy where no meter can be read"
    )
    tiers: list[Tier] = Field(default=[], description="other rates for the whole of a call with a longer prompt")

    def at(self, prompt_tokens: int) -> Rates:
        """The rates of a call with a prompt of this length."""
        reached = [tier for tier in self.tiers if prompt_tokens > tier.above]
        return max(reached, key=lambda tier: tier.above) if reached else self

    def most(self, prompt_tokens: int) -> tuple[float, float]:
        """The highest rates, for prompt and answer, of a call with a prompt of this length at most."""
        reached: list[Rates] = [self, *(tier for tier in self.tiers if prompt_tokens > tier.above)]
        return (
            max(max(rates.input, rates.cached or 0.0, rates.cache_write or 0.0) for rates in reached),
            max(rates.output for rates in reached),
        )


class Capabilities(BaseModel):
    """What a model can take; unknown (None) never closes an edge."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    tools: bool | None = Field(default=None, description="can call tools")
    images: bool | None = Field(default=None, description="reads images")
    audio: bool | None = Field(default=None, description="hears audio")
    context: int | None = Field(default=None, gt=0, description="context window, in tokens")


def _hide_credentials(value: Any, info: ValidationInfo) -> Any:
    """An address that holds a password or a query, where keys may stand, is a secret as a whole.

    In a graph's text it must be whole; in the environment, `host:port` is how some services write theirs.
    """
    if info.context is FROM_TEXT and isinstance(value, str):
        split = urlsplit(value)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ValueError("an address must begin with http:// or https:// and name a host")
    return SecretStr(value) if isinstance(value, str) and ("@" in value or "?" in value) else value


Address = Annotated[str | SecretStr, BeforeValidator(_hide_credentials, json_schema_input_type=str)]


class ModelSettings(Options):
    """One entry of `models:`. Secrets are typed secret; anything may come from `${env:NAME}`, read when used."""

    static: ClassVar[frozenset[str]] = frozenset({"provider", "capabilities"})

    provider: Provider = Field(description="which adapter talks to the model")
    model: str = Field(default="", description="a hub id, a local folder or file, or embedded/<name>")
    revision: str | None = Field(default=None, description="revision of a hub id")
    api_key: SecretStr | None = Field(default=None, description="usually ${env:NAME}")
    api_base: Address | None = Field(default=None, description="URL of the service")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0, description="most tokens of one answer")
    stop: list[str] | None = Field(default=None, description="texts that end an answer, left out of it")
    seed: int | None = Field(default=None, ge=0, lt=2**31, description="makes sampling repeatable")
    timeout: TimeLimit | None = Field(default=None, description="for one attempt, such as 30s")
    retries: int | None = Field(
        default=None,
        ge=0,
        le=10,
        description="further attempts after one that failed; default: 2, none for a model of the host's",
    )
    threads: int | None = Field(default=None, gt=0, description="CPU threads of a local model")
    device: str | None = Field(
        default=None, min_length=1, description="of diffusers: such as cuda, cuda:1, mps or cpu; default: a GPU if any"
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        default=None, description="of diffusers and transformers: numbers that weights are kept in; default: float32"
    )
    offload: Literal["model", "sequential"] | None = Field(
        default=None, description="of diffusers: keep what is not at work in main memory, by model or by layer"
    )
    queue: int = Field(default=64, gt=0, description="requests that may wait for a local model")
    price: Price | None = Field(default=None, description="overrides the known price")
    capabilities: Capabilities = Field(default=Capabilities(), description="overrides what is known of the model")

    @model_validator(mode="after")
    def _needs_a_name(self) -> Self:
        if not self.model and self.provider != "host":
            raise ValueError(f"provider {self.provider} needs `model:`")
        return self

    @model_validator(mode="after")
    def _places_pipelines_only(self) -> Self:
        places = ("device", "offload") if self.provider == "transformers" else ("device", "dtype", "offload")
        placed = [name for name in places if getattr(self, name) is not None]
        if placed and self.provider != "diffusers":
            raise ValueError(f"`{placed[0]}` is an option of provider diffusers, not of {self.provider}")
        return self

    @property
    def address(self) -> str | None:
        """The whole of `api_base`, with any credentials in it."""
        return self.api_base.get_secret_value() if isinstance(self.api_base, SecretStr) else self.api_base

    def __getstate__(self) -> dict[Any, Any]:
        if isinstance(self.api_key, SecretStr) or isinstance(self.api_base, SecretStr):
            raise TypeError("a model that holds a key is not pickled: pickle its flow, and keep keys in ${env:NAME}")
        return super().__getstate__()
