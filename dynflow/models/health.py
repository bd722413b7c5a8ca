"""How the models of this process fare: a circuit breaker and a retry budget for each, whichever flows use it."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field

from langchain_core.language_models import BaseChatModel

from dynflow.models.base import ProviderChat
from dynflow.models.breaker import CircuitBreaker
from dynflow.models.retry_budget import RetryBudget

_IN_PROCESS = frozenset({"llama_cpp", "transformers"})
_SALT = os.urandom(16)
"""A digest of a key is worth nothing outside this process."""


@dataclass(frozen=True)
class Health:
    """What is remembered of one model's calls."""

    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    retries: RetryBudget = field(default_factory=RetryBudget)


_lock = threading.Lock()
_of_services: dict[Hashable, Health] = {}
_of_objects: dict[int, tuple[weakref.ref[BaseChatModel], Health]] = {}


def health_of(model: BaseChatModel) -> Health:
    """The health of a model. Ours are told apart by provider, name, address and key (by a digest of it), so that all
    flows of this process share what they learn; a model of the host's is known as the object that it is."""
    with _lock:
        if isinstance(model, ProviderChat):
            key = _key(model)
            return _of_services.get(key) or _of_services.setdefault(key, Health())
        number = id(model)
        if number not in _of_objects:
            _of_objects[number] = (weakref.ref(model, lambda gone: _forget(number)), Health())
        return _of_objects[number][1]


def forget_all() -> None:
    """Forget how every model has fared: for tests, and for a host that knows an outage to be over."""
    with _lock:
        _of_services.clear()
        _of_objects.clear()


def _after_fork() -> None:
    """A forked child learns anew; a lock that another thread of its parent held would never open."""
    global _lock
    _lock = threading.Lock()
    forget_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _forget(number: int) -> None:
    _of_objects.pop(number, None)  # no lock: Python may collect garbage while this thread holds it


def _key(model: ProviderChat) -> Hashable:
    settings = model.settings
    secret = settings.api_key.get_secret_value() if settings.api_key else ""
    place = f"{settings.address or ''}\n{secret}"  # an address, too, may hold a password
    digest = hashlib.blake2b(place.encode(), key=_SALT, digest_size=16).digest()
    folder = str(model.base) if model.provider in _IN_PROCESS else None
    return (model.provider, settings.model, settings.revision, digest, folder)
