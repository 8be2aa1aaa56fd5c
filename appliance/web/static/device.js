"use strict";

// The device page keeps itself up to date. What somebody has opened, scrolled to or focused stays as it is.
const device = document.getElementById("device");
const keep = () => {
  const open = [...device.querySelectorAll("details")].map((each) => each.open);
  const log = device.querySelector(".log");
  return { open, top: log ? log.scrollTop : 0, focused: place(document.activeElement) };
};
const focusable = () => [...device.querySelectorAll("a[href], button, summary, [tabindex]")];
const place = (node) => focusable().indexOf(node);
const restore = (kept) => {
  for (const [number, each] of [...device.querySelectorAll("details")].entries()) each.open = Boolean(kept.open[number]);
  const log = device.querySelector(".log");
  if (log) log.scrollTop = kept.top;
  if (kept.focused >= 0) focusable()[kept.focused]?.focus({ preventScroll: true });
};
const refresh = async () => {
  if (document.hidden || String(getSelection())) return;
  try {
    const answer = await fetch(device.dataset.source, { cache: "no-store" });
    if (answer.redirected || answer.status === 401) location.reload();
    answered(device, answer.ok); // of page.js
    if (!answer.ok) return;
    const kept = keep();
    device.innerHTML = await answer.text();
    restore(kept);
  } catch {
    answered(device, false);
  }
};
setInterval(refresh, 5000);
document.addEventListener("visibilitychange", refresh);
