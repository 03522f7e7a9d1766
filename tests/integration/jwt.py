"""Tokens as an identity provider makes them, and some that none would."""

import base64
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://idp.example.org/realms/one"
AUDIENCE = "chromadb"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def public(key: Key | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey) -> bytes:
    """Its public part, as PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write(key: Key, path: Path) -> Path:
    path.write_bytes(public(key))
    return path


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Of a sound token; None takes one away."""
    now = int(time.time())
    sound: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "app",
        "iat": now,
        "exp": now + 300,
        "chromadb_role": "rw",
        "chromadb_scopes": ["tena/dba"],
    }
    return {name: value for name, value in {**sound, **changes}.items() if value is not None}


def signature(key: Key, algorithm: str, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        hash_of = {"RS256": hashes.SHA256(), "RS384": hashes.SHA384(), "RS512": hashes.SHA512()}
        if algorithm == "PS256":
            return key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        return key.sign(data, padding.PKCS1v15(), hash_of.get(algorithm, hashes.SHA256()))
    size = (key.curve.key_size + 7) // 8
    digest = hashes.SHA384() if algorithm == "ES384" else hashes.SHA256()
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def signed(key: Key, header: bytes | dict[str, Any], payload: bytes | dict[str, Any], by: str = "") -> str:
    """A token. header, payload: bytes stand as they are. by: the algorithm; as the header says where it is empty."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"{encoded(head)}.{encoded(body)}"
    algorithm = by or (str(header.get("alg")) if isinstance(header, dict) else "")
    return f"{text}.{encoded(signature(key, algorithm, text.encode()))}"


def by_secret(secret: bytes, header: dict[str, Any], payload: dict[str, Any]) -> str:
    """A token with a secret that both sides know, HS256."""
    text = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(payload).encode())}"
    made = hmac.HMAC(secret, hashes.SHA256())
    made.update(text.encode())
    return f"{text}.{encoded(made.finalize())}"
