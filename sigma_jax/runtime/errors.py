"""Errors that the user of a command can mend: they are told in one sentence, without a traceback.

Everything that a flag, a config, a data set, a weights file or a folder can be wrong about is a UserError; any other
exception is taken for a fault of the program and keeps its traceback (runtime/command.py). A class of errors that
callers already catch as ValueError or OSError names both: `class DataSetError(UserError, ValueError)`.
"""


class UserError(Exception):
    """Says what was got, what was expected, and what to do."""


class InvalidValue(UserError, ValueError):
    """A flag, a config value or an argument that cannot be."""


class InvalidType(UserError, TypeError):
    """A value of another type than the setting has."""


class UnknownName(UserError, AttributeError):
    """A setting that does not exist; the message names the nearest one."""


class Failed(UserError, RuntimeError):
    """What another program, process or machine was asked for did not work; the message says where to look."""


class NotThere(UserError, FileNotFoundError):
    """A file or folder that a flag names and that does not exist, or is not what it should be."""


class StorageRefused(UserError, OSError):
    """A disk or a bucket does not do what it is asked for; the message says what to do about it."""
