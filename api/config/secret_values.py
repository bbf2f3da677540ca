"""Secrets as values: how they are written, and which are too easily guessed."""

from __future__ import annotations

import base64
import binascii

from api.config.sources import SettingsError

_LENGTH_MIN, _CHARACTERS_MIN = 16, 5
_KEY_LENGTH, _KEY_BYTES_MIN = 32, 8
_MAKE_WORD = "python3 -c 'import secrets; print(secrets.token_hex())'"
_MAKE_KEY = "python3 -c 'import base64,os; print(base64.b64encode(os.urandom(32)).decode())'"


def secrets_of(text: str) -> list[str]:
    """Split comma-separated secrets."""
    return [secret.strip() for secret in text.split(",") if secret.strip()]


def check_words(text: str, name: str) -> None:
    """SettingsError, naming `name`, if there is no secret in a list of them, or a weak one."""
    words = secrets_of(text)
    if not words:
        raise SettingsError(f"{name} is empty; make a secret with: {_MAKE_WORD}")
    for word in words:
        check_word(word, name)


def check_word(word: str, name: str) -> None:
    """SettingsError, naming `name`, if a secret is so short or monotonous that it can be guessed.

    The secret is not quoted.
    """
    if len(word) < _LENGTH_MIN or len(set(word)) < _CHARACTERS_MIN:
        raise SettingsError(
            f"{name}: a secret needs at least {_LENGTH_MIN} characters, {_CHARACTERS_MIN} of them"
            f" different; make one with: {_MAKE_WORD}"
        )


def key_bytes(text: str, name: str, *, weak: bool = False) -> bytes:
    """Return the 32 bytes of a master key.

    SettingsError, naming `name`, if it is not base64 of so many, or can be guessed. A former key
    may be `weak`: else it could not be replaced.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_LENGTH:
        problem = f"is not base64 of {_KEY_LENGTH} bytes"
    elif len(set(key)) < _KEY_BYTES_MIN and not weak:
        problem = f"has fewer than {_KEY_BYTES_MIN} different bytes"
    else:
        return key
    raise SettingsError(f"{name} {problem}; make one with: {_MAKE_KEY}")
