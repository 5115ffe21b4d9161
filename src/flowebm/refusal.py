"""The class of refusals: what the user gave cannot be used, and the message says what to do."""


class Refused(ValueError):
    """Input that flowebm does not take: data, an option, a file or a directory.

    Its message is one sentence for the user: what is wrong, where, and what to do. The command line
    ends with status 2 for it alone. Any other `ValueError` is a fault, not a refusal.
    """
