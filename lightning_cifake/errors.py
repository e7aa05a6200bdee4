"""The one exception a user's mistake raises: the command line prints its message as one line, without a traceback."""


class UserError(Exception):
    """Something the user can fix: says what was expected and what it got.

    Library code raises it; :func:`lightning_cifake.commands.main.main` prints it to standard error and exits with 2.
    """

    reported_by_rank_zero = False
    """Set where every process of a run comes to this at the same point, and this is not the first: it ends silently."""
