"""TLS to the database: what waiting can't mend is said, and what it can is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from eventstore.errors import LogError, LoginError, UnavailableError, explained
from eventstore.postgres import failover

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

TIMEOUT_S = 30.0
_REQUEST_BYTES = 8


@asynccontextmanager
async def server(answer: bytes, certificate: Path | None = None) -> AsyncGenerator[str]:
    """Answer each request for TLS with a byte; go on with it if there is a certificate."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(_REQUEST_BYTES)
        writer.write(answer)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await writer.start_tls(context)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as listening:
        port = listening.sockets[0].getsockname()[1]
        yield f"postgresql://u:hush@127.0.0.1:{port}/d"


@pytest.fixture
def self_signed(tmp_path: Path) -> Path:
    """A certificate that nobody else has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


async def failure(url: str) -> LogError | None:
    """Connect in vain; return what an operator is told."""
    try:
        await failover.connect(url, timeout=TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - whichever it is
        return explained(error)
    pytest.fail("there is a connection")


async def refusal(url: str) -> str:
    """Connect in vain for good; return the sentence."""
    found = await failure(url)
    assert isinstance(found, LoginError)
    assert "hush" not in str(found)
    return str(found)


async def test_a_server_without_tls() -> None:
    """It is said that the server offers none, where it is asked for."""
    async with server(b"N") as url:
        assert "does not offer TLS" in await refusal(f"{url}?sslmode=require")


async def test_a_certificate_that_is_not_trusted(self_signed: Path) -> None:
    """The reason is named, and what to look at."""
    async with server(b"S", self_signed) as url:
        text = await refusal(f"{url}?sslmode=verify-full&sslrootcert={self_signed}.none")
        assert text == "sslrootcert in USERLOG_DATABASE_URL names a file that can't be read"
        other = f"{url}?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt"
        assert "CERTIFICATE_VERIFY_FAILED" in await refusal(other)


async def test_a_connection_that_breaks_off_passes() -> None:
    """One that ends while TLS begins is a server that starts again, say: it is waited for."""
    async with server(b"") as url:
        assert isinstance(await failure(f"{url}?sslmode=require"), UnavailableError)
