"""What is wrong with a device, and how to mend it: the worst first. Empty means that all is well.

Pure: it judges what others have found.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from appliance.certificates import Credential
from appliance.machine import Clock

_DAY = 86400.0
_SOON_DAYS = 30.0
_FEW_DAYS_OF_DISK = 14.0
_LOW_DISK = 2 * 1024**3
_MANY_WAIT = 100
_MANY_MESSAGES = 50
_MEND_FILES = (
    "Put right the files that are named here. It listens by itself some seconds later, and never without TLS instead."
)
_EFFECTS = {
    "banner": "each result carries a warning",
    "review": "no result may be used before a person has reviewed it",
    "withheld": "no new result leaves the device",
}


@dataclass(frozen=True)
class Problem:
    """``what`` is wrong in a sentence, ``detail`` as found (it may quote a peer), ``mend``: what to do next.

    ``link``: the page that helps.
    """

    name: str
    severity: Literal["alarm", "caution"]
    what: str
    mend: str
    detail: str = ""
    link: str = ""


def find(
    health: dict[str, Any], clock: Clock, credentials: Sequence[Credential], disk_days_left: float | None
) -> list[Problem]:
    """All of them, alarms before what is only to be looked after.

    Parameters
    ----------
    health
        As `appliance.health.health` tells.
    disk_days_left
        As `appliance.history.days_left` tells.
    """
    found = [
        *_of_the_parts(health),
        *_of_packages(health),
        *_of_safe_mode(health),
        *_of_the_ledger(health),
        *_of_the_trail(health),
        *_of_deliveries(health),
        *_of_messages(health),
        *_of_the_disk(health, disk_days_left),
        *_of_retention(health),
        *_of_credentials(credentials),
        *_of_the_machine(health, clock),
        *_of_arrivals(health),
        *_of_diagnoses(health),
    ]
    return sorted(found, key=lambda problem: problem.severity != "alarm")


def _of_the_parts(health: dict[str, Any]) -> Iterator[Problem]:
    parts = health["components"]
    worker = parts.get("worker", {})
    if not health["running"]:
        yield Problem(
            "not_running",
            "alarm",
            "The appliance is not running. Nothing is received or read.",
            "Start it (systemctl start scanside, or scanside run), and look at the log below for why it stopped.",
        )
        return
    if worker.get("state") == "waiting":
        yield Problem(
            "nothing_is_read",
            "alarm",
            "Nothing is read at the moment. What comes in is kept and read later.",
            "Run the self-test below: it names what each backend lacks. Then press Prove the backends anew.",
            worker.get("reason", ""),
        )
    for name in ("worker", "appliance"):
        if parts.get(name, {}).get("stale"):
            yield Problem(
                f"stale_{name}",
                "alarm",
                f"The {name} has said nothing for {parts[name]['age_seconds']:.0f} s.",
                "If this stays for a minute, restart the appliance (systemctl restart scanside) and send the support "
                "bundle to your vendor.",
            )
    if parts.get("storage_scp", {}).get("state") == "closed":
        yield Problem(
            "closed_storage_scp",
            "alarm",
            "No scanner can send: the Storage SCP does not listen, since its files for TLS can't be used.",
            _MEND_FILES,
            parts["storage_scp"]["problem"],
        )
    stops = sum(parts.get("inference", {}).get("stops", {}).values())
    if stops >= 10:
        yield Problem(
            "inference_stops",
            "caution",
            f"The process that runs the network was started again {stops} times.",
            "Each image was still read or said to have failed. Look at memory and temperature, then send the support "
            "bundle to your vendor.",
            parts["inference"].get("last_stop", ""),
        )


def _of_packages(health: dict[str, Any]) -> Iterator[Problem]:
    for each in health["components"].get("worker", {}).get("unserved", ()) if health["running"] else ():
        yield Problem(
            f"unserved_{each['model']}",
            "alarm",
            f"{each['package']} can't be served. What is to be read by it waits; other images are read.",
            "Run the self-test below: it names what each backend lacks. Then press Prove the backends anew; it is also "
            "tried again by itself, each night at the latest.",
            each["reason"],
        )
    for each in health["fallbacks"]:
        model, version = each["model"], each["version"]
        reads = f"{version} reads instead" if version else "nothing reads its images"
        yield Problem(
            f"fallback_{model}",
            "alarm",
            f"The package of {model} that was put in force can't be served. {reads[0].upper()}{reads[1:]}, since "
            f"{_moment(each['chosen_at'])}.",
            f"Install it again (scanside models install FILE) and switch to it, or confirm what reads: scanside models "
            f"switch {model} {version or 'VERSION'} --why REASON.",
            each["why"],
            "/models",
        )


def _of_safe_mode(health: dict[str, Any]) -> Iterator[Problem]:
    """Each entry that is in force; none of them can be hidden."""
    for each in health["safe_mode"]["in_force"]:
        yield Problem(
            f"safe_mode_{each['id']}",
            "alarm" if each["level"] != "banner" else "caution",
            f"Safe mode {each['id']}: {_EFFECTS[each['level']]}.",
            "Look at the cause. Safe mode ends when a person acknowledges the alarm, or leaves it by name and reason.",
            each["why"],
            "/safe-mode",
        )
    if count := health["safe_mode"]["on_their_way"]:
        yield Problem(
            "on_their_way",
            "alarm",
            f"{count} {_plural(count, 'result that was', 'results that were')} made before new ones were withheld "
            f"{_plural(count, 'waits', 'wait')} for a destination, and {_plural(count, 'is', 'are')} still sent.",
            f"Tell those who will read {_plural(count, 'it', 'them')} what safe mode was entered for.",
            link="/deliveries",
        )
    if count := health["counts"]["withheld"]:
        yield Problem(
            "withheld",
            "alarm",
            f"{count} {_plural(count, 'image has', 'images have')} a result that is withheld.",
            "Have them read without it, or have a person release them.",
            link="/safe-mode",
        )
    if count := health["safe_mode"]["tickets"]:
        yield Problem(
            "retraining_ticket",
            "alarm",
            f"{count} retraining {_plural(count, 'ticket is', 'tickets are')} open: a model is measured to be below "
            "its floor.",
            "Look at the evidence, decide, and close it with what was decided. Nothing retrains by itself.",
            link="/performance",
        )


def _of_the_ledger(health: dict[str, Any]) -> Iterator[Problem]:
    recount = health["recount"]
    if recount and recount["fault_count"]:
        yield Problem(
            "recount",
            "alarm",
            f"The proof of the ledger found {recount['fault_count']} faults.",
            "Run scanside ledger verify, which names each. Keep the data folder as it is and tell your vendor.",
            "; ".join(f"{each['where']}: {each['what']}" for each in recount["faults"][:3]),
        )
    if obstacle := _obstacles(health).get("recount"):
        yield Problem(
            "recount_obstacle",
            "alarm",
            "The ledger could not be proven: the latest proof that is shown is an older one.",
            "Mend what is named here, then run scanside ledger verify; the device itself tries again at the next start "
            "and each night. Where the ledger is damaged, keep the data folder as it is and tell your vendor.",
            obstacle,
        )
    if count := health["unseen_in_quarantine"]:
        yield Problem(
            "quarantine",
            "caution",
            f"{count} {_plural(count, 'image is', 'images are')} set aside: reading {_plural(count, 'it', 'them')} "
            f"broke a limit or the reader, or another image has {_plural(count, 'its', 'their')} UID.",
            "Look at the reason of each; read it again, or mark it as reviewed.",
            link="/quarantine",
        )
    if count := health["held_up"]["count"]:
        yield Problem(
            "held_up",
            "alarm",
            f"{count} {_plural(count, 'image', 'images')} could not be read to the end, and "
            f"{_plural(count, 'is', 'are')} tried again.",
            "The reason says what is in the way; once that is gone, reading goes on by itself.",
            health["held_up"]["reason"].removeprefix("Waiting: "),
        )
    if (waiting := health["counts"]["received"]) >= _MANY_WAIT:
        yield Problem(
            "queue",
            "caution",
            f"{waiting} images wait to be read.",
            "See the chart of the queue: where it grows, more comes in than this device reads. Look at temperature, "
            "and at which backend serves.",
        )


def _of_deliveries(health: dict[str, Any]) -> Iterator[Problem]:
    for row in health["destinations"]:
        name = row["destination"]
        elsewhere = f"Send them to one that is: scanside deliveries move {name} NAME. Or configure {name} again."
        if not row["configured"] and (count := row["waiting"] + row["to_commit"]):
            yield Problem(
                f"not_configured_{name}",
                "alarm",
                f"{count} {_plural(count, 'result waits', 'results wait')} for {name}, which is not configured.",
                elsewhere,
                row["last_error"],
                "/deliveries",
            )
        if row["undelivered"]:
            count = row["undelivered"]
            yield Problem(
                f"undelivered_{name}",
                "alarm",
                f"{count} {_plural(count, 'result was', 'results were')} not delivered to {name}, and "
                f"{_plural(count, 'is', 'are')} not tried any more.",
                f"Test the connection to {name} below, mend it, and send them again."
                if row["configured"]
                else elsewhere,
                row["last_error"],
                "/deliveries",
            )
        elif row["failing_since"] and row["configured"]:
            count = row["waiting"]
            yield Problem(
                f"failing_{name}",
                "alarm",
                f"{name} takes nothing since {_moment(row['failing_since'])}; {count} "
                f"{_plural(count, 'result waits', 'results wait')} for it.",
                f"Test the connection to {name} below: it says what fails. What waits is sent once it answers."
                if row["failures"]
                else f"{name} answers, and refuses each of them. Look in its log why, and mend that there; what waits "
                "is tried again by itself.",
                row["last_error"],
                "/deliveries",
            )
    for peer in health["components"].get("storage_commitment", {}).get("peers", ()):
        if peer["given_up"]:
            yield Problem(
                f"commitment_{peer['ae_title']}",
                "alarm",
                f"{peer['ae_title']} was not told what is kept here: {peer['given_up']} storage commitment reports "
                "were given up.",
                "Look whether it works, and whether its port for storage commitment is the one in "
                "[[storage_scp.modalities]]. It may ask again; until then it keeps its images.",
                peer["last_error"],
            )


def _of_the_trail(health: dict[str, Any]) -> Iterator[Problem]:
    trail = health["components"].get("audit", {})
    if trail.get("faults"):
        yield Problem(
            "audit",
            "alarm",
            f"The audit trail is not what was written: {trail['faults']} faults.",
            "Run scanside audit verify, which names each. Keep the data folder as it is, and find out who could write "
            "there.",
        )
    if obstacle := _obstacles(health).get("audit"):
        yield Problem(
            "audit_obstacle",
            "alarm",
            "The audit trail could not be verified, or not pruned.",
            "Run scanside audit verify. Keep the data folder as it is, and find out who could write there.",
            obstacle,
        )
    collector = trail.get("syslog") or {}
    if collector.get("state") == "failing":
        yield Problem(
            "audit_collector",
            "caution",
            f"The audit trail does not reach its collector; {collector['wait']} records wait.",
            "They are kept, and sent once it answers. Look whether it works, and at its address and certificate.",
            collector["problem"],
        )
    if trail.get("kept"):
        yield Problem(
            "audit_retention",
            "caution",
            "Records of the audit trail are old enough to go, and stay.",
            "They go once they are somewhere else, too: at the collector, or in a file that you export.",
            trail["kept"],
        )


def _of_messages(health: dict[str, Any]) -> Iterator[Problem]:
    if count := health["unmade"]["count"]:
        yield Problem(
            "unmade",
            "alarm",
            f"{count} {_plural(count, 'result', 'results')} went out without a message that is configured, and nobody "
            f"has reviewed {_plural(count, 'it', 'them')}.",
            "Each one's page says why. Mend that (hl7.character_set, say), and tell those who wait for the message. "
            "The alarm ends when each is reviewed.",
            health["unmade"]["reason"],
            "/?unreviewed=1",
        )


def _of_the_disk(health: dict[str, Any], days_left: float | None) -> Iterator[Problem]:
    free = health["disk"]["free"]
    if free < _LOW_DISK:
        yield Problem(
            "disk",
            "alarm",
            f"Only {free / 1024**3:.1f} GB of the disk are free. When it is full, scanners are answered 0xA700.",
            "Free some space, or set [retention] so that old images go by themselves.",
        )
    elif days_left is not None and days_left < _FEW_DAYS_OF_DISK:
        yield Problem(
            "disk_soon",
            "caution",
            f"At the rate of the last days the disk is full in {days_left:.0f} days.",
            "Set [retention] so that old images go by themselves, or free some space.",
        )


def _of_retention(health: dict[str, Any]) -> Iterator[Problem]:
    kept = health["components"].get("retention", {}).get("kept", {})
    if count := kept.get("images"):
        yield Problem(
            "unreviewed",
            "caution",
            f"{count} {_plural(count, 'image is old enough to go and stays', 'images are old enough to go and stay')}, "
            f"since nobody has reviewed {_plural(count, 'it', 'them')}: {kept['bytes'] / 1024**3:.1f} GB.",
            "Review them. Those that were turned away can be marked together, in the worklist."
            if kept["rejected"]
            else "Each one's page has a button for it. Retention removes it then.",
            link="/?state=rejected&unreviewed=1" if kept["rejected"] else "/?unreviewed=1",
        )
    obstacles = _obstacles(health)
    if obstacle := obstacles.get("retention") or obstacles.get("kept"):
        yield Problem(
            "retention_obstacle",
            "caution",
            "Retention could not go through what is old enough to go.",
            "Mend what is named here; the device tries again each night, and while the disk is too full. Until then "
            "the disk may fill up.",
            obstacle,
        )


def _of_credentials(credentials: Sequence[Credential]) -> Iterator[Problem]:
    now = time.time()
    for each in credentials:
        if each.problem:
            yield Problem(
                f"unreadable_{each.path.name}",
                "alarm",
                f"A file for TLS or signing can't be used ({each.what}).",
                f"Put a PEM file that this service may read at {each.path}. A certificate serves only with the key "
                "that it was requested with.",
                each.problem,
            )
        elif each.expires_at is not None and each.expires_at < now:
            yield Problem(
                f"expired_{each.path.name}",
                "alarm",
                f"A certificate has expired on {_day(each.expires_at)} ({each.what}).",
                f"Have it renewed and put it at {each.path}. If the date is wrong, set this device's clock.",
            )
        elif each.begins_at is not None and each.begins_at > now:
            yield Problem(
                f"early_{each.path.name}",
                "alarm",
                f"A certificate is not valid before {_day(each.begins_at)} ({each.what}).",
                "Is this device's clock right? If it is, wait, or have another certificate made.",
            )
        elif each.expires_at is not None and each.expires_at < now + _SOON_DAYS * _DAY:
            yield Problem(
                f"expires_{each.path.name}",
                "caution",
                f"A certificate expires on {_day(each.expires_at)} ({each.what}).",
                f"Have it renewed before then and put it at {each.path}.",
            )


def _of_the_machine(health: dict[str, Any], clock: Clock) -> Iterator[Problem]:
    if health["throttling"]["now"]:
        yield Problem(
            "throttling",
            "caution",
            "This machine runs slower than it can.",
            "Check its fan and its air, and its power mode.",
            health["throttling"]["reason"],
        )
    if clock.synchronized is False:
        yield Problem(
            "clock",
            "caution",
            "No time server keeps this device's clock right.",
            "Enter the site's time server (timedatectl, chrony). Certificates are judged by this clock, and results "
            "carry its time.",
        )
    memory = health["memory"]
    if memory["available"] < 0.05 * memory["total"]:
        yield Problem(
            "memory",
            "caution",
            "Less than a twentieth of the memory is free.",
            "Look what else runs on this machine. The process that reads images is the first that the kernel ends.",
        )


def _of_arrivals(health: dict[str, Any]) -> Iterator[Problem]:
    parts = health["components"]
    for each in parts.get("silence", {}).get("silent", ()):
        learned = f"by the {each['weeks']} weeks before" if each["weeks"] else "in its configured hours"
        yield Problem(
            f"silent_{each['ae_title']}",
            "alarm",
            f"{each['ae_title']} is silent: nothing has come from it since {_moment(each['last'])}.",
            "Look whether it works, whether its queue to this device stands, and whether the network does "
            "(scanside test-connection).",
            f"Usual is at most {each['usual_seconds'] / 3600:.1f} h, {learned}.",
        )
    drop = parts.get("drop_folder", {})
    if drop.get("watch_problem"):
        yield Problem(
            "drop_watch",
            "caution",
            "The drop folder is only looked through now and then.",
            "What is dropped there is taken, but later. Raise fs.inotify.max_user_watches, or use a local disk.",
            drop["watch_problem"],
        )
    if count := len(drop.get("problems", {})):
        reasons = sorted(set(drop["problems"].values()))
        yield Problem(
            "dropped",
            "caution",
            f"{count} {_plural(count, 'file', 'files')} in the drop folder can't be taken.",
            "Copy them again, or remove them; scanside status names them.",
            "; ".join(reasons[:3]),
        )


def _of_diagnoses(health: dict[str, Any]) -> Iterator[Problem]:
    """Of those that come by HL7, where somebody listens."""
    found = health["diagnoses"]
    if found is None or not health["running"]:
        return
    part = health["components"].get("diagnoses", {})
    if part.get("state") == "closed":
        yield Problem(
            "closed_diagnoses",
            "alarm",
            "Nobody listens to final diagnoses by HL7, since the files for TLS can't be used.",
            _MEND_FILES,
            part["problem"],
            "/performance",
        )
    elif part.get("stale", True):
        yield Problem(
            "diagnoses",
            "alarm",
            "Nobody listens to final diagnoses by HL7; who sends them keeps them back.",
            "The log below says why. It is tried again by itself.",
            link="/performance",
        )
    if count := found["refused"]:
        yield Problem(
            "diagnoses_refused",
            "caution",
            f"{count} HL7 {_plural(count, 'message with diagnoses was', 'messages with diagnoses were')} refused in "
            "the last 24 hours.",
            "The sender's log has each acknowledgment, which says what is wrong with the message.",
            link="/performance",
        )
    if found["messages"] >= _MANY_MESSAGES and not found["taken"] + found["repeated"] + found["not_final"]:
        yield Problem(
            "diagnoses_unknown",
            "caution",
            f"None of {found['messages']} HL7 messages in the last 24 hours was about a finding that a model looks "
            "for.",
            "Compare the codes and words of the sender's diagnoses with [performance.codes].",
            link="/performance",
        )


def _obstacles(health: dict[str, Any]) -> dict[str, str]:
    """As `appliance.housekeeping.Housekeeping.obstacles` tells."""
    found: dict[str, str] = health["components"].get("housekeeping", {}).get("obstacles", {})
    return found


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
