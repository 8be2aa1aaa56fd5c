"""The DICOM layer: the association, its presentation contexts, and C-ECHO."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial

from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from appliance import tls_client
from appliance.checks import Check
from appliance.connection import secure
from appliance.connection.question import Question
from appliance.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.requestor import keep_answers

# Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21): in plain words, and what to do next.
_REJECTIONS: dict[tuple[int, int], tuple[str, str]] = {
    (1, 3): (
        "it does not know the calling AE title {calling!r}",
        "enter this AE title, with this device's address, at the peer; or say with --from how the peer knows this side",
    ),
    (1, 7): (
        "it is not called {called!r}",
        "look up the peer's own AE title, letter by letter: upper and lower case differ",
    ),
    (1, 2): ("it is no DICOM peer of the usual kind: it does not know the application context", "check the port"),
    (3, 1): ("it has too much to do at the moment", "try again soon"),
    (3, 2): ("it has as many associations as it takes", "try again soon, or raise its limit"),
}
_CONTEXT_RESULTS = {
    1: "refused by the user",
    2: "refused without a reason",
    3: "not this kind of object (SOP class)",
    4: "not in this transfer syntax",
}


def association(question: Question) -> Iterator[Check]:
    _config.LOG_HANDLER_LEVEL = "none"
    peer = question.peer
    entity = AE(ae_title=question.calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = question.timeout
    entity.connection_timeout = question.timeout
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    contexts = [build_context(Verification, ImplicitVRLittleEndian)]
    contexts += [build_context(each, syntax) for each, syntaxes in question.wanted.items() for syntax in syntaxes]
    tls = None
    if question.tls is not None:
        tls = (tls_client.client_context(question.tls), question.tls.name or peer.host)
    ask = partial(entity.associate, peer.host, peer.port, contexts, peer.ae_title, tls_args=tls)
    made = ask()
    if made.is_aborted and made.acceptor.primitive is None:
        made = ask()  # the answer of one that rejects and hangs up at once can get lost (seen of Orthanc, once)
    keep_answers(made)
    try:
        if not made.is_established:
            yield _no_association(question, made)
            return
        yield Check("association", "ok", f"{peer.ae_title} accepts {question.calling_ae_title}")
        yield from _contexts(question, made)
        yield _echo(made)
    finally:
        if made.is_established:
            made.release()


def _no_association(question: Question, association: Association) -> Check:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        words, hint = _REJECTIONS.get(
            (answer.result_source, answer.diagnostic), (answer.reason_str.lower(), "look into the peer's log")
        )
        names = {"calling": question.calling_ae_title, "called": question.peer.ae_title}
        return Check("association", "fail", f"the peer rejects it: {words.format(**names)}", hint)
    if answer is not None:  # it was accepted, and none of the contexts was
        return Check(
            "association",
            "fail",
            "the peer takes none of the kinds of objects that were offered, nor C-ECHO",
            "have Verification and the storage classes switched on at the peer",
        )
    if question.tls is None and secure.is_spoken(question):
        return Check(
            "association",
            "fail",
            "the peer speaks TLS on this port, not plain DICOM",
            "use --tls with --ca, --cert and --key; or the peer's other port",
        )
    if association.is_aborted:
        return Check(
            "association",
            "fail",
            "the peer ended the connection without an answer to the association request",
            "it may not let this address in, or speak something else than DICOM here: look into its log",
        )
    return Check(
        "association",
        "fail",
        f"no answer to the association request within {question.timeout:g} s",
        "something listens there, but it does not speak DICOM, or it hangs: look into its log",
    )


def _contexts(question: Question, association: Association) -> Iterator[Check]:
    """One answer for each SOP class."""
    accepted = {(each.abstract_syntax, each.transfer_syntax[0]) for each in association.accepted_contexts}
    refused = {_key(each): each.result for each in association.rejected_contexts}
    for sop_class, syntaxes in question.wanted.items():
        taken = [syntax for syntax in syntaxes if (sop_class, syntax) in accepted]
        reasons = {refused.get((sop_class, syntax), 0) or 0 for syntax in syntaxes if syntax not in taken}
        if len(taken) == len(syntaxes):
            yield Check(sop_class.name, "ok", f"in {len(taken)} of {len(syntaxes)} transfer syntaxes")
        elif taken:
            left = ", ".join(UID(syntax).name for syntax in syntaxes if syntax not in taken)
            yield Check(
                sop_class.name,
                "warning",
                f"in {len(taken)} of {len(syntaxes)} syntaxes; not in {left}",
                "such objects are refused, unless their sender has them in another syntax",
            )
        else:
            why = ", ".join(_CONTEXT_RESULTS.get(reason, "refused") for reason in sorted(reasons))
            yield Check(
                sop_class.name,
                "warning",
                f"the peer does not take it: {why}",
                "have this storage class, and Implicit VR Little Endian at least, switched on at the peer",
            )


def _key(context: PresentationContext) -> tuple[UID, UID]:
    return UID(context.abstract_syntax), UID(context.transfer_syntax[0])


def _echo(association: Association) -> Check:
    try:
        status = association.send_c_echo().get("Status")
    except (ValueError, RuntimeError, struct.error):  # Verification was refused
        return Check("C-ECHO", "warning", "the peer does not take Verification", "storing may work all the same")
    if status == 0x0000:
        return Check("C-ECHO", "ok", "answered")
    said = "no answer" if status is None else f"answered with 0x{status:04X}"
    return Check("C-ECHO", "fail", said, "look into the peer's log")
