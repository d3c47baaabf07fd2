"""The one exception that users see: what is wrong, where, and what to do about it."""


class SignforgeError(Exception):
    """Something the user can mend, said in one sentence.

    The command line prints the sentence to stderr and exits with code 2, without a traceback.
    """
