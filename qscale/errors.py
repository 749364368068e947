"""The exceptions of qscale: one base, and the exit code that the command line gives each."""


class QScaleError(Exception):
    """Base of every error that qscale raises on purpose; the command line prints it without a traceback.

    Attributes:
        exit_code: 1 when the work failed, 2 when the request could not be understood.
    """

    exit_code = 1


class SpecError(QScaleError, ValueError):
    """A ``QuantSpec`` or ``Recipe`` cannot be read, or its dialect does not define it."""

    exit_code = 2


class ConfigError(QScaleError, ValueError):
    """A study, training or model configuration is not valid."""

    exit_code = 2


class CorpusError(QScaleError):
    """A corpus is missing, unreadable or too small for the tokens asked of it."""

    exit_code = 2


class LawError(QScaleError, ValueError):
    """A law file, law id or table of observations is not valid."""

    exit_code = 2


class FitError(QScaleError):
    """The observations do not determine the parameters of the law form."""


class StoreError(QScaleError):
    """A study folder cannot be read or written."""


class StudyError(StoreError):
    """A folder or file that was named is not a study, or cannot hold this one."""

    exit_code = 2


class BackendError(QScaleError, RuntimeError):
    """No backend can serve a kernel call; the message lists each backend's reason."""


class PlanError(QScaleError):
    """The laws at hand do not answer a question of planning, or may not be used together."""
