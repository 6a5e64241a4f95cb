"""Errors that the command line answers with one line."""


class UserError(ValueError):
    """A mistake in configuration, data, checkpoint or arguments.

    The message is one line that names the value and what was allowed. The command line prints it and exits with
    status 2; all exceptions but those of this module are ours and keep their traceback.
    """


class NonFiniteLossError(ArithmeticError):
    """Training diverged: a loss or a gradient is not finite. Nothing was updated with it; exit status 1."""
