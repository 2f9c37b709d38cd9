"""Normal forms of class names, by which two spellings of one class are recognised."""

import unicodedata


def comparable(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes accents as separate characters (NFD), others do not."""
    return unicodedata.normalize("NFC", name)


def spelling(name: str) -> str:
    """A key that all spellings of a class name share, such as `Air_Drumming` and `air drumming`, in NFC and NFD."""
    return comparable(name.replace("_", " ").casefold().strip())
