"use strict";

// The form works by itself; this adds how far a transfer is.
const form = document.getElementById("hand-over");
const going = form.querySelector(".going");
const trouble = document.getElementById("trouble");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    going.querySelector("progress").value = total ? loaded / total : 0;
    going.querySelector("output").value = `${Math.round((loaded / 1e6))} / ${Math.round(total / 1e6)} MB`;
  });
  request.addEventListener("loadend", () => {
    if (request.status === 200) return location.assign("/box");
    going.hidden = true;
    const page = new DOMParser().parseFromString(request.responseText || "", "text/html");
    trouble.textContent = page.querySelector("main p")?.textContent || trouble.dataset.broken;
    trouble.hidden = false;
  });
  trouble.hidden = true;
  going.hidden = false;
  request.send(new FormData(form));
});
