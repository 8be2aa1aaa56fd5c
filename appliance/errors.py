"""Every error that the appliance raises on purpose.

ApplianceError                 what happened, to what, and (``hint``) what to do next
├── ConfigError                the configuration file is wrong
├── PackageError               a model package can't be read
│   └── SignatureError         ... or was not signed by a trusted key
├── BackendError               an inference backend can't be used
│   ├── ReceiptError           ... because it gives other answers than the package's golden vectors
│   ├── InferenceStoppedError  ... because its process crashed, or gave no answer in time
│   └── NotServedError         ... because no process of any backend runs: an image waits, it is not to blame
│       └── UnservedError      ... and its package is out of service until it can be served again
├── InputError                 an input is turned away; the message is the reason that a technician reads
│   ├── ImageError             it can't be decoded
│   │   └── QuarantineError    ... because it exceeds a limit or breaks what reads it; it is set aside
│   ├── ArchiveError           a zip archive is refused as a whole
│   └── NotAcceptedError       no installed package is meant for it
├── SandboxError               no process could read a file: an image waits, it is not to blame
├── SpoolError                 a file can't be stored durably, or read from the disk: no image is to blame
│   ├── DiskFullError          ... because the disk is full
│   └── LeaseLostError         another process holds the instance now; what was computed for it must be dropped
├── DeliveryError              a destination did not take an object
├── AccountError               an account or a token can't be made, found or changed so
│   └── LoginError             ... or nobody is let in with what was typed
├── ReaderStudyError           a reader study can't be made, found or answered so
├── SafeModeError              safe mode can't be entered or left so
├── DiagnosisError             a file of diagnoses can't be read, or a ticket not be closed so
└── DriftError                 an alarm or a baseline is not there, or not ready for what is asked
"""

from __future__ import annotations


class ApplianceError(Exception):
    """Base of all errors of the appliance.

    Parameters
    ----------
    message
        What happened and to which file, UID or key, in words for the reader of a log or a page.
    hint
        What to do next.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(ApplianceError):
    """The configuration file is wrong."""


class PackageError(ApplianceError):
    """A model package can't be read."""


class SignatureError(PackageError):
    """A signature is missing, wrong, or not by a trusted key."""


class BackendError(ApplianceError):
    """An inference backend can't be used."""


class ReceiptError(BackendError):
    """A backend gives other answers than the package's golden vectors."""


class InferenceStoppedError(BackendError):
    """The process of a backend crashed, was killed, or gave no answer in time."""


class NotServedError(BackendError):
    """No backend could even try an image; it waits until one can."""


class UnservedError(NotServedError):
    """The package that reads an image is out of service; the image waits until it is in service again."""


class InputError(ApplianceError):
    """An input is turned away; as text, whole sentences."""

    def __str__(self) -> str:
        return f"{self.message} {self.hint[0].upper()}{self.hint[1:]}." if self.hint else self.message


class ImageError(InputError):
    """An input can't be decoded into pixels."""


class QuarantineError(ImageError):
    """Reading an input exceeds a limit, or breaks what reads it; it is set aside, and its bytes are kept."""


class ArchiveError(InputError):
    """A zip archive is damaged, or nothing of it may be taken."""


# By what a reason of the next one tells what there is to mend, if anything.
NO_PACKAGE = "No model package is installed"
RAW_IMAGE = "The image is a raw one (For Processing)"
NO_BODY_PART = "It does not say which body part was imaged"
THIS_DEVICE_READS = "this device reads"  # other images than this one


class NotAcceptedError(InputError):
    """No installed package is meant for this input."""


class SandboxError(ApplianceError):
    """The process that reads received files can't be started, or gets no processor; the file is not to blame."""


class SpoolError(ApplianceError):
    """A file can't be stored durably, or read from the disk; no image is to blame."""


class DiskFullError(SpoolError):
    """The disk has no room left."""


class LeaseLostError(SpoolError):
    """Another process holds this instance now; what was computed for it must be dropped."""


class DeliveryError(ApplianceError):
    """A destination did not take an object."""


class AccountError(ApplianceError):
    """An account or a token can't be made, found or changed so."""


class LoginError(AccountError):
    """Nobody is let in with what was typed.

    Parameters
    ----------
    wait
        Seconds until the next try is looked at; 0 where that is now.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class ReaderStudyError(ApplianceError):
    """A reader study can't be made, found or answered so."""


class SafeModeError(ApplianceError):
    """Safe mode can't be entered or left so."""


class DiagnosisError(ApplianceError):
    """A file of diagnoses can't be read."""


class DriftError(ApplianceError):
    """An alarm or a baseline of the drift watch is not there, or not ready for what is asked."""
