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

// A heat map over the image: off until it is asked for. Outlines keep their strength, or they would be lost.
const opacity = document.getElementById("opacity");
for (const toggle of document.querySelectorAll("[data-toggle]")) {
  toggle.addEventListener("change", () => {
    document.querySelector(`[data-overlay="${toggle.dataset.toggle}"]`).hidden = !toggle.checked;
    if (opacity) opacity.disabled = !document.querySelector('[data-toggle]:not([data-toggle="outline"]):checked');
  });
}
opacity?.addEventListener("input", () => {
  for (const overlay of document.querySelectorAll("[data-overlay]:not(.line)")) overlay.style.opacity = opacity.value / 100;
});

// The slices of a volume lie in one strip, one below the other; the frame shows one of them.
const slices = document.getElementById("slices");
if (slices) {
  const [strip] = slices.children;
  const slider = document.getElementById("slice");
  const count = Number(slices.dataset.slices);
  const show = () => {
    for (const image of slices.children) image.style.transform = `translateY(${(-100 * (slider.value - 1)) / count}%)`;
    document.getElementById("place").value = `${slider.value} of ${count}`;
  };
  const fit = () => {
    slices.style.aspectRatio = `${strip.naturalWidth} / ${strip.naturalHeight / count}`;
    slices.style.maxWidth = `${(78 * strip.naturalWidth * count) / strip.naturalHeight}vh`;
    show();
  };
  slider.addEventListener("input", show);
  slices.addEventListener("wheel", (event) => {
    event.preventDefault();
    slider.value = Number(slider.value) + Math.sign(event.deltaY);
    show();
  }, { passive: false });
  if (strip.complete) fit();
  else strip.addEventListener("load", fit);
}
