"""The one kind of error that a command shows as a line and not as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend: the message names the field or file, what was given and what would do."""
