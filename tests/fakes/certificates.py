"""Certificates for tests: an authority, what it signs, and what clients trust."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in files."""

    certificate: Path
    key: Path
    serial: int


class Authority:
    """A CA whose certificate lies in ``ca``. Certificates are for 127.0.0.1."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.ca = directory / f"{name}.pem"
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        extension = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder(self._name, self._key.public_key()).add_extension(extension, critical=True)
        self.ca.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def issue(self, name: str, password: bytes | None = None) -> Pair:
        """A new certificate in the files of this name."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key", certificate.serial_number)
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pair.certificate.write_bytes(certificate.public_bytes(_PEM))
        pair.key.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, how))
        return pair

    def trust(self, pair: Pair | None = None) -> ssl.SSLContext:
        """A client that trusts this authority, and shows this certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            self._name, subject, key, x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=30)
        )
