"""Every error a user can meet.

Each message says what was expected, what arrived and what to do. Errors that a loop treats as ordinary outcomes
(``NotReady``, ``Exhausted``) are raised before anything has changed.
"""

from __future__ import annotations

from collections.abc import Sequence


class ZooptError(Exception):
    """Base class of every error raised by zoopt on purpose."""


class SpaceError(ZooptError, ValueError):
    """A variable, a parameter set or a known constraint of a search space is wrong."""


class ConfigError(ZooptError, ValueError):
    """A ``study.toml`` (or the arguments of a study) cannot be used; the message names the field and the fix."""


class CapabilityError(ZooptError, ValueError):
    """The chosen strategy cannot handle this task; the message names strategies which can."""


class UnknownName(ZooptError, KeyError):
    """No strategy, surrogate or problem is registered under this name."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0]) if self.args else ""


class PluginError(ZooptError, ImportError):
    """A registered strategy, surrogate or problem cannot be imported; the message names the package it comes from."""


class NotReady(ZooptError):
    """The strategy needs results of pending trials before it can propose more. An outcome, not a failure."""


class Exhausted(ZooptError):
    """There is nothing left to propose: the finite space or the budget is used up. An outcome, not a failure."""


class FeedbackError(ZooptError, ValueError):
    """What was told does not fit what was asked: shapes, names, or a kind of feedback that is not there."""


class UnknownId(FeedbackError):
    """A trial id that this study never gave out."""


class AlreadyTold(FeedbackError):
    """A finished trial was told again with another result; ``study.amend`` corrects a finished value."""


class TellErrors(FeedbackError):
    """Some rows of a batch could not be told; the others were recorded.

    Attributes:
        errors: ``(trial id, exception)`` for each refused row, by id.
    """

    def __init__(self, errors: Sequence[tuple[int, Exception]]) -> None:
        self.errors = list(errors)
        shown = "; ".join(f"trial {i}: {e}" for i, e in self.errors[:5])
        more = f"; and {len(self.errors) - 5} more" if len(self.errors) > 5 else ""
        super().__init__(f"{len(self.errors)} row(s) were refused, all others are recorded: {shown}{more}")


class StrategyError(ZooptError, RuntimeError):
    """A strategy raised or returned something outside its contract; the study goes on from its record."""


class ObjectiveError(ZooptError, RuntimeError):
    """The objective returned something that is not a result, or too many evaluations failed."""


class JournalError(ZooptError, RuntimeError):
    """The journal cannot be read or written; nothing was overwritten."""


class ConnectionLost(JournalError):
    """The connection to the journal's server ended in the midst of a statement; whether that was carried out is not known.

    Nothing is lost by trying again: the next call connects anew, and goes on from what is recorded.
    """


class StudyLocked(JournalError):
    """Another live process drives this study."""


class LeaseLost(JournalError):
    """This process drove the study but another one has taken over; nothing of it was written after that."""


class StudyMismatch(JournalError):
    """The recorded study and the one being opened differ in something that cannot be continued."""


class JournalWarning(UserWarning):
    """Something about a study's record that a person should know; the study goes on."""


class ModelWarning(UserWarning):
    """The numerics of a surrogate failed, and the strategy went on without it."""
