"""What others wrote, and times, as text for people. Pure; nothing of it reaches a terminal as it is."""

from datetime import UTC, datetime

LINE_CHARS_MAX = 300  # of a key, a header's line or a reason: a few lines of a terminal


def printable(text: str, chars_max: int = LINE_CHARS_MAX) -> str:
    """Text in which whatever a terminal might act on is escaped; longer text is cut and says so."""
    shown = text[:chars_max]
    safe = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)
    return safe + (f"… ({len(text):,} characters)" if len(text) > chars_max else "")


def time_text(time_ms: int | None) -> str:
    """An instant in UTC to the millisecond, nothing for None, and the number for what is no date."""
    if time_ms is None:
        return ""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
