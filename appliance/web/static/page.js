"use strict";

// On a phone the pages' names are wider than the screen: the one of this page is in sight.
document.querySelector("header nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

// A part that keeps itself up to date says when it no longer does, and since when.
let answeredAt = new Date();
const answered = (part, well) => {
  const lost = document.getElementById("lost");
  if (!well && lost.hidden) lost.querySelector("time").textContent = answeredAt.toLocaleTimeString(document.documentElement.lang);
  if (well) answeredAt = new Date();
  lost.hidden = well;
  part.classList.toggle("stale", !well);
};

// The worklist keeps itself up to date: one small request every two seconds, answered with 304 while nothing changed.
const live = document.getElementById("live");
if (live) {
  let mark = null;
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.source, { headers: mark ? { "If-None-Match": mark } : {}, cache: "no-store" });
      if (answer.redirected || answer.status === 401) location.reload();
      answered(live, answer.ok || answer.status === 304);
      if (answer.status !== 200) return;
      mark = answer.headers.get("ETag");
      const focused = document.activeElement && document.activeElement.getAttribute("href");
      live.innerHTML = await answer.text();
      if (focused) live.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    } catch {
      answered(live, false);
    }
  };
  setInterval(refresh, 2000);
  document.addEventListener("visibilitychange", refresh);
}

// A filter is used as soon as it is chosen; what is left empty stays out of the address.
const filters = document.getElementById("filters");
if (filters) {
  filters.addEventListener("change", (event) => event.target.name !== "q" && filters.requestSubmit());
  filters.addEventListener("submit", () => {
    for (const each of filters.elements) each.disabled ||= each.name && !each.value;
  });
  addEventListener("pageshow", () => {
    for (const each of filters.elements) each.disabled = false;
  });
  fetch("/viewer/warm").catch(() => {}); // somebody is about to look at an image
}
