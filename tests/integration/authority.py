"""An authority for certificates of clients, and what it signs and revokes."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def _name(*common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common])


class Authority:
    """directory: for its files, and those of what it signs."""

    def __init__(self, directory: Path, name: str = "An authority", above: "Authority | None" = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        self.directory = directory
        self._made = 0
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(above.name if above else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(above.key if above else self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(
        self,
        *common: str,
        begins: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=1),
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        itself: bool = False,
    ) -> Path:
        """A file with a certificate for this CN, or these, and its key. itself: signed by its own key, not by this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        subject = _name(*common)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if itself else self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        certificate = builder.sign(key if itself else self.key, hashes.SHA256())
        self._made += 1
        path = self.directory / f"client-{id(self)}-{self._made}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def revoked(self, *files: Path, ends: timedelta = timedelta(days=1)) -> bytes:
        """Its list, with the certificates of these files on it."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - timedelta(days=2))
            .next_update(now + ends)
        )
        for file in files:
            serial = x509.load_pem_x509_certificate(file.read_bytes()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def context(server: Path, client: Path | None = None) -> ssl.SSLContext:
    """For a connection to a server with this certificate, as a client with that one."""
    made = ssl.create_default_context(cafile=server)
    if client:
        made.load_cert_chain(client)
    return made
