"""The English sentences of other parts of the appliance, as forms that `appliance.web.recorded` recognizes.

A place in a form is written as ``%(name)s``; what `recorded` makes of it depends on the name. Tests hold each form
against the code that says it. The sentences of model packages are those of ``models/``; others' stay English.
"""

from __future__ import annotations

from appliance.web.sentences.connections import TESTS, TLS
from appliance.web.sentences.device import DEVICE, REFUSALS
from appliance.web.sentences.judging import DRIFT, MODELS, PERFORMANCE
from appliance.web.sentences.results import NOT_READ, PACKAGES, RESULTS, SAFE_MODE

FORMS = (*RESULTS, *PACKAGES, *SAFE_MODE, *NOT_READ, *DEVICE, *TESTS, *TLS, *DRIFT, *PERFORMANCE, *MODELS, *REFUSALS)
