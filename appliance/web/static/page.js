"use strict";

// The worklist keeps itself up to date: one small request every two seconds, answered with 304 while nothing changed.
const live = document.getElementById("live");
if (live) {
  let mark = null;
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.source, { headers: mark ? { "If-None-Match": mark } : {}, cache: "no-store" });
      if (answer.redirected || answer.status === 401) location.reload();
      live.classList.toggle("stale", !answer.ok && answer.status !== 304);
      if (answer.status !== 200) return;
      mark = answer.headers.get("ETag");
      const focused = document.activeElement && document.activeElement.getAttribute("href");
      live.innerHTML = await answer.text();
      if (focused) live.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    } catch {
      live.classList.add("stale");
    }
  };
  setInterval(refresh, 2000);
  document.addEventListener("visibilitychange", refresh);
}

// A heat map over the image: off until it is asked for.
const opacity = document.getElementById("opacity");
for (const toggle of document.querySelectorAll("[data-toggle]")) {
  toggle.addEventListener("change", () => {
    document.querySelector(`[data-overlay="${toggle.dataset.toggle}"]`).hidden = !toggle.checked;
    opacity.disabled = !document.querySelector("[data-toggle]:checked");
  });
}
opacity?.addEventListener("input", () => {
  for (const overlay of document.querySelectorAll("[data-overlay]")) overlay.style.opacity = opacity.value / 100;
});
