"""When two texts name the same class."""

import unicodedata


def comparable(name: str) -> str:
    """A name as it is compared: macOS writes accents as characters of their own (NFD), others do not (NFC)."""
    return unicodedata.normalize("NFC", name)


def spelling(name: str) -> str:
    """What all spellings of a class name share: `Air_Drumming`, `air drumming`, accents as one character or two."""
    return comparable(name.replace("_", " ").casefold().strip())
