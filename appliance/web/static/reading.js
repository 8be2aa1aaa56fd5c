"use strict";

const form = document.getElementById("answer");
if (form) {
  const image = document.getElementById("radiograph");
  const ratings = [...form.querySelectorAll("[name=rating]")];
  const decision = document.getElementById("decision");
  const chosen = document.getElementById("chosen");
  const middle = ratings.length / 2; // ratings from 1 to 5 or 7, and "can't judge" behind them

  // The time that the image is seen: from when it is drawn, and not while the page is hidden.
  let seen = 0, since = null;
  const look = () => { since ??= document.hidden ? null : performance.now(); };
  const away = () => { if (since !== null) seen += performance.now() - since; since = null; };
  if (image.complete) look(); else image.addEventListener("load", look);
  document.addEventListener("visibilitychange", () => (document.hidden ? away() : image.complete && look()));
  form.addEventListener("submit", () => {
    away();
    form.elements.seconds.value = (seen / 1000).toFixed(2);
  });

  const say = () => {
    const rating = ratings.find((each) => each.checked);
    decision.disabled = rating?.value === "none";
    chosen.textContent = rating && rating.value !== "none" ? `${rating.value}: ${rating.parentElement.querySelector("span").textContent}` : "";
  };
  // A rating says the decision, too, but for the middle one; the reader may decide otherwise.
  const rate = (rating) => {
    const value = Number(rating.value);
    for (const each of form.querySelectorAll("[name=present]")) {
      each.checked = value !== middle && !Number.isNaN(value) && (each.value === "yes") === (value > middle);
    }
    say();
  };
  for (const rating of ratings) rating.addEventListener("change", () => rate(rating));
  say();

  const pick = (input) => {
    if (!input || input.disabled || decision.disabled && input.name === "present") return;
    input.checked = true;
    if (input.name === "rating") rate(input);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const key = event.key.toLowerCase();
    if (/^[0-9]$/.test(key)) pick(ratings.find((each) => each.value === (key === "0" ? "none" : key)));
    else if (key === "p") pick(form.querySelector("[name=present][value=yes]"));
    else if (key === "a") pick(form.querySelector("[name=present][value=no]"));
    else if (key === "enter" && !event.target.closest("a, button")) form.querySelector("button.wide")?.click();
    else return;
    event.preventDefault();
  });

  const brightness = document.getElementById("brightness");
  const contrast = document.getElementById("contrast");
  const invert = document.getElementById("invert");
  const show = () => {
    image.style.filter = `brightness(${brightness.value}%) contrast(${contrast.value}%) invert(${invert.checked ? 1 : 0})`;
  };
  for (const control of [brightness, contrast, invert]) control.addEventListener("input", show);
  document.getElementById("enlarge").addEventListener("input", (event) => {
    image.classList.toggle("enlarged", event.target.checked);
  });
}
