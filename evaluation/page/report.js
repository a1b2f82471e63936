"use strict";
/* Sliders, enlarged images, steps of trajectories.  Without this script, and on paper, images lie side by side. */

document.documentElement.classList.add("js");

addEventListener("DOMContentLoaded", () => {
  // The left version is clipped at --at; the slider is a native one that lies over the image
  for (const slider of document.querySelectorAll(".compare input")) {
    slider.addEventListener("input", () => slider.parentElement.style.setProperty("--at", `${slider.value}%`));
  }
  for (const button of document.querySelectorAll(".card button")) {
    button.addEventListener("click", () => {
      const card = button.closest(".card");
      button.setAttribute("aria-pressed", card.classList.toggle("large"));
      card.scrollIntoView({ block: "nearest" });
    });
  }
  for (const slider of document.querySelectorAll(".trajectory input")) {
    const frames = [...slider.closest(".trajectory").querySelectorAll(".shot")];
    const show = () => frames.forEach((frame, i) => frame.classList.toggle("now", i === Number(slider.value)));
    slider.addEventListener("input", show);
    show();
  }
});
