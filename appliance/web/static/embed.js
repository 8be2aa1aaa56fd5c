"use strict";

// Overlays are off until they are asked for.
for (const toggle of document.querySelectorAll("[data-toggle]")) {
  toggle.addEventListener("change", () => {
    document.querySelector(`[data-overlay="${toggle.dataset.toggle}"]`).hidden = !toggle.checked;
  });
}

// Of a volume, the middle slices first.
const strip = document.querySelector(".strip");
if (strip) {
  addEventListener("load", () => {
    strip.scrollTop = (strip.scrollHeight - strip.clientHeight) / 2;
  });
}
