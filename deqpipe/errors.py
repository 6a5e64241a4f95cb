"""What a user got wrong, told in one line."""


class UserError(ValueError):
    """A mistake in configuration, data, checkpoint or arguments.

    The message is one line that names the value and what was allowed. The command line prints it and exits with
    status 2; every other exception is ours and keeps its traceback.
    """
