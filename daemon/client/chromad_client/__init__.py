"""Connects an application to the Chroma service of its host: one client per process, as /etc/chromadb/client.yml says.

    from chromad_client import get_client

    collection = get_client().get_collection("some")

What comes is the official client, with nothing around it.
"""

from chromad_client.connecting import get_async_client, get_client
from chromad_client.errors import (
    CertificateUnknown,
    ClientError,
    ConfigurationError,
    ServiceDown,
    TokenRefused,
)

__all__ = [
    "CertificateUnknown",
    "ClientError",
    "ConfigurationError",
    "ServiceDown",
    "TokenRefused",
    "get_async_client",
    "get_client",
]
