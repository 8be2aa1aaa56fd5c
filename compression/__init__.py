"""The training side: from a recipe to a signed model package. Imports the device's contracts, never the other way."""

import os

import appliance as appliance  # before all else: it keeps OpenVINO, NNCF and ONNX Runtime from calling home

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would look for updates when it is loaded
