"""Empty restic repositories, made once and copied: their key is derived with next to no work.

`restic init` lets the derivation of a key take half a second, and so does every later call. The key file made here holds the
same master key behind scrypt with N = 2, which restic takes as it is (restic's design document, "Keys, Encryption and
MAC"). Everything else is restic's own.
"""

import atexit
import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

PASSWORD = "a key of tests"
_NONCE = _TAG = 16


def put(target: Path) -> None:
    """Fills an existing directory with an empty repository that `PASSWORD` opens."""
    shutil.copytree(_template(), target, dirs_exist_ok=True)


@cache
def _template() -> Path:
    top = Path(tempfile.mkdtemp(prefix="chromad-restic-"))
    atexit.register(shutil.rmtree, top)
    path = top / "repository"
    environment = {"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD}
    subprocess.run(["restic", "--no-cache", "--repo", path, "init"], env=environment, check=True, capture_output=True)
    [key] = (path / "keys").iterdir()
    text = _rewrap(key.read_bytes())
    key.unlink()
    (key.parent / hashlib.sha256(text).hexdigest()).write_bytes(text)
    return path


def _rewrap(text: bytes) -> bytes:
    document = json.loads(text)
    master = _open(_derive(document), base64.b64decode(document["data"]))
    document |= {"N": 2, "r": 1, "p": 1}
    document["data"] = base64.b64encode(_seal(_derive(document), master)).decode()
    return json.dumps(document).encode()


def _derive(document: dict[str, object]) -> bytes:
    n, r, p = (int(str(document[name])) for name in ("N", "r", "p"))
    salt = base64.b64decode(str(document["salt"]))
    return hashlib.scrypt(PASSWORD.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 << 20, dklen=64)


def _open(key: bytes, sealed: bytes) -> bytes:
    nonce, body, tag = sealed[:_NONCE], sealed[_NONCE:-_TAG], sealed[-_TAG:]
    assert _tag(key, nonce, body) == tag
    return _crypt(key, nonce, body)


def _seal(key: bytes, plain: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    body = _crypt(key, nonce, plain)
    return nonce + body + _tag(key, nonce, body)


def _crypt(key: bytes, nonce: bytes, text: bytes) -> bytes:
    return Cipher(algorithms.AES(key[:32]), modes.CTR(nonce)).encryptor().update(text)


def _tag(key: bytes, nonce: bytes, body: bytes) -> bytes:
    """Poly1305-AES."""
    once = Cipher(algorithms.AES(key[32:48]), modes.ECB()).encryptor().update(nonce)
    return Poly1305.generate_tag(key[48:64] + once, body)
