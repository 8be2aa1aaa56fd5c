"""Drift, performance, and a change of models."""

from __future__ import annotations

from appliance.web.language import marked as m

DRIFT = (
    m("what the model was validated on"), m("this site's baseline"), m("Alarm"), m("Early warning"),
    m("Confidence has fallen"), m("no single stream stands out"), m("the package has no reference"),
    m("the baseline is still learned"), m("it rests since an alarm was acknowledged"), m("it has not begun"),
    m("mended: watch on with the same reference"), m("usual from now on: learn the site's baseline anew"),
    m("known: no more alarms against this reference"),
    m("%(said)s: %(said_2)s of studies since %(moment)s, %(said_3)s before"),
    m("%(said)s: %(said_2)s of studies since %(moment)s, %(said_3)s before; %(said_4)s"),
    m("%(number)s %%"), m("less than 0.1 %%"), m("%(number)s of these %(number_2)s with %(said)s"),
    m("%(number)s of these %(number_2)s are of age %(number_3)s to %(number_4)s"),
    m("%(number)s of these %(number_2)s are of age %(number_3)s or more"),
    m("%(said)s not stated"), m("%(said)s below %(number)s"), m("%(said)s above %(number)s"),
    m("%(said)s below %(number)s %(said_2)s"), m("%(said)s above %(number)s %(said_2)s"), m("age from %(number)s"),
    m("Sex %(value)s"), m("Manufacturer %(value)s"), m("Scanner model %(value)s"), m("Detector %(value)s"),
    m("View %(value)s"), m("Body part %(value)s"), m("Answers in the prediction set %(value)s"),
    m("The model is unsure %(said)s"), m("Positive %(said)s"), m("yes"), m("no"),
    m("%(name)s is watched for drift; the site's baseline is learned"),
    m("%(name)s: the site's baseline is learned anew"), m("%(name)s: the site's baseline is learned anew (%(said)s)"),
    m("%(name)s is watched against what the model was validated on again"),
    m("%(name)s is watched against this site's baseline again"),
    m("after alarm %(number)s"), m("%(name)s: %(number)s studies are the site's baseline"),
    m("alarm %(number)s acknowledged: %(reason)s (%(said)s)"),
    # what is counted apart
    m("Further images of a study"), m("Failed"), m("Clock went ahead"), m("Clock went back"), m("by %(number)s s"),
    # groups, streams, units
    m("Patients"), m("Acquisition"), m("Image"), m("What the network sees"), m("What the network says"),
    m("Operation"), m("other"), m("one never seen before"),
    m("Age"), m("Sex"), m("Manufacturer"), m("Scanner model"), m("Detector"), m("Scanner"), m("Tube voltage"),
    m("Exposure"), m("Pixel spacing"), m("View"), m("Body part"), m("Time of day"), m("Lower quartile of the levels"),
    m("Median level"), m("Upper quartile of the levels"), m("Gray levels used"), m("Contrast"),
    m("Sharpness"), m("Noise"), m("Pixels at the lowest level"), m("Pixels at the highest level"), m("Flat border"),
    m("Height by width"), m("Distance from the training images"), m("Novelty to the network"), m("Probability"),
    m("Entropy of the answer"), m("Answers in the prediction set"), m("The model is unsure"), m("Positive"),
    m("Outlined"), m("Uncertain part of the outline"), m("Time to the result"),
    m("years"), m("mm"), m("h"), m("s"), m("of the range"), m("levels"), m("of the range per pixel"), m("of the image"),
    m("its parts are watched one by one"), m("studies that follow each other come at about the same time of day"),
    m("how fast this device is says nothing about the images"),
)  # fmt: skip
PERFORMANCE = (
    m("male"), m("female"), m("under 1"), m("%(number)s to %(number_2)s"), m("65 and over"),
    m("Diagnoses of a study that has no result here; they count once it has"),
    m("Diagnoses whose accession number is that of several patients"),
    m("Diagnoses of a finding that no model here looks for in that study"),
    m("Findings of a study that final diagnoses call both present and absent; none counts until one says that it is a "
      "correction"),
    m("Findings where a reader and the diagnosis differ; the diagnosis counts"),
    m("Answers that a clock which was ahead has dated into the future; no figure by time has them"),
)  # fmt: skip
MODELS = (
    # the way back, and why there is none
    m("%(name)s was never switched on this device"), m("the latest change of %(name)s was a rollback already"),
    m("the latest change of %(name)s was a fallback already"),
    m("the latest change of %(name)s confirmed what reads since a fallback"),
    m("models.switches = false: the configuration alone says which packages read"),
    m("set it to true, or change models.packages"), m("name a version: scanside models switch"),
    m("the file of %(name)s (SHA-256 %(sha256)s) is not in %(path)s, or is damaged"),
    m("install it again, or `scanside models switch` to another version"),
    m("%(name)s is in force"), m("%(name)s reads no longer"),
    m("%(said)s; the appliance reads with it since %(number)s s after the change"),
    m("%(said)s; no appliance reads with it yet"), m("it will when it starts: see the device page"),
    m("it could not be run: %(name)s"), m("it ended early (exit code %(number)s)"), m("look at the log below"),
    # a shadow, and its criteria
    m("stopped"), m("promoted"), m("%(name)s reads now"), m("images without an answer"), m("images read by both"),
    m("%(said)s: images read by both"), m("%(said)s: same size within %(number)s%%, lower end"),
    m("%(said)s: agreement, lower end"), m("%(said)s: patients where readers say present"),
    m("%(said)s: patients where readers say absent"), m("%(said)s: loss of AUC, worse end"),
    m("%(said)s: loss of sensitivity, worse end"), m("%(said)s: loss of specificity, worse end"),
    m("at least %(number)s"), m("at least %(number)s%%"), m("at most %(number)s"), m("at most %(number)s%%"),
)  # fmt: skip
