"""The configuration file chromad.yml: schema, loading, and what a reload takes over."""

from chromad.config.loading import load
from chromad.config.reload import RUNTIME_KEYS, differences, is_runtime, pending
from chromad.config.schema import DEFAULT_PATH, Backup, Config, CopyTo, GatewaySettings, Keep, Listen, Metrics
from chromad.config.values import parse_duration, parse_size

__all__ = [
    "DEFAULT_PATH",
    "RUNTIME_KEYS",
    "Backup",
    "Config",
    "CopyTo",
    "GatewaySettings",
    "Keep",
    "Listen",
    "Metrics",
    "differences",
    "is_runtime",
    "load",
    "parse_duration",
    "parse_size",
    "pending",
]
