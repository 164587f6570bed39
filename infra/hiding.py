"""Secrets are cut out of what is logged and said: passwords in addresses, and bearer tokens.

Whoever writes a message leaves them out already; this is for the texts of others, such as a driver's error.
"""

import re

_PASSWORD = re.compile(r"(://[^:/@\s\"']*):[^@/\s\"']+@")
_TOKEN = re.compile(r"(ff_[0-9]{1,19}_)[A-Za-z0-9_-]{43}")


def hide_secrets(text: str) -> str:
    """The text with *** in the places of secrets."""
    return _TOKEN.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))
