"""Errors that the user of a command can correct: commands print them as one sentence, without a traceback.

Whatever is wrong with a flag, a config, a data set, a weights file or a folder is a UserError; any other exception is
taken for a fault of the program and keeps its traceback (runtime/command.py). An error that Python code would expect as
ValueError or OSError inherits from both: `class DataSetError(UserError, ValueError)`.
"""

import os


class UserError(Exception):
    """An error that its user can correct; the message says what was got, what was expected, and what to do."""


class InvalidValue(UserError, ValueError):
    """A flag, a config value or an argument has a value that is not allowed."""


class InvalidType(UserError, TypeError):
    """A value of another type than the setting has."""


class UnknownName(UserError, AttributeError):
    """A setting that does not exist; the message names the nearest one."""


class Failed(UserError, RuntimeError):
    """Another program, process or machine did not do what it was asked to do; the message says where to look."""


class NotThere(UserError, FileNotFoundError):
    """A file or folder that a flag names and that does not exist, or is not what it should be."""


class StorageRefused(UserError, OSError):
    """A disk or a bucket refuses to read or write; the message says what to do about it."""


def refusal(error: BaseException, path: str | os.PathLike) -> StorageRefused | None:
    """The error to raise where the system refused to read `path` (no permission, an I/O error); None for any other.

    Such a file may be in order, so nobody should be told to delete it or to make it anew. Libraries raise OSError about
    content that they do not understand, too, but without an error number.
    """
    if isinstance(error, OSError) and error.errno is not None:
        reason = error.strerror or str(error)
        return StorageRefused(f"{path} cannot be read ({reason}): check its permissions and the disk that it lies on")
    return None
