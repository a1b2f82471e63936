"use strict";
/* Sliders, zoom and trajectories.  Without this script, and on paper, the page shows its images side by side. */

document.documentElement.classList.add("js");

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".compare").forEach(setUpComparison);
  document.querySelectorAll(".trajectory").forEach(setUpTrajectory);
  setUpLeftChoice();
  setUpZoom();
  setUpPrint();
});

/* The left version is clipped at --at; the slider is a native one that lies over the image, so that
   pointer, touch and keyboard work as everywhere. */
function setUpComparison(box) {
  const slider = box.querySelector("input");
  const show = () => {
    const share = Math.round(slider.value);
    const left = document.documentElement.dataset.left;
    box.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${share} % ${left}, ${100 - share} % restored`);
  };
  slider.addEventListener("input", show);
  document.addEventListener("leftchange", show);
  show();
}

function setUpLeftChoice() {
  document.querySelectorAll("input[name=left]").forEach((radio) => {
    radio.addEventListener("change", () => {
      document.documentElement.dataset.left = radio.value;
      document.dispatchEvent(new Event("leftchange"));
    });
  });
}

function setUpTrajectory(box) {
  const frames = [...box.querySelectorAll(".frames li")];
  const [button, slider, output] = ["button", "input", "output"].map((tag) => box.querySelector(tag));
  const name = box.querySelector("h3").textContent;
  const last = frames.length - 1;
  const delay = Math.min(400, Math.max(60, 3000 / frames.length)); // about three seconds in all
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let timer = 0;

  const show = (step) => {
    slider.value = step;
    frames.forEach((frame, i) => frame.classList.toggle("now", i === step));
    output.textContent = `${step}\u2009/\u2009${last}`;
    slider.setAttribute("aria-valuetext", `step ${step} of ${last}`);
  };
  const label = () => {
    // Who asked for no motion goes step by step
    button.textContent = calm.matches ? "Next" : timer ? "Pause" : "Play";
    button.setAttribute("aria-label", `${button.textContent}: ${name}`);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    label();
  };
  const advance = () => {
    const step = Number(slider.value);
    if (step < last) show(step + 1);
    if (step + 1 >= last) stop();
  };
  button.addEventListener("click", () => {
    if (timer) {
      stop();
      return;
    }
    const atEnd = Number(slider.value) >= last;
    if (atEnd) show(0);
    if (calm.matches) {
      if (!atEnd) show(Number(slider.value) + 1);
      return;
    }
    timer = setInterval(advance, delay);
    label();
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  calm.addEventListener("change", stop);
  show(0);
  label();
}

/* One dialog for all images: three versions at the same place and scale, so that flipping shows what differs. */
function setUpZoom() {
  const scales = [1, 2, 3, 4, 6, 8, 12, 16];
  const dialog = document.getElementById("zoom");
  const view = document.getElementById("zoom-view");
  const image = view.querySelector("img");
  const [smaller, larger] = ["zoom-out", "zoom-in"].map((id) => document.getElementById(id));
  let shots = {};
  let opener = null;
  let scale = 2;

  const resize = (next, centre) => {
    scale = next;
    image.style.width = `${shots.restored.naturalWidth * scale}px`;
    image.style.height = `${shots.restored.naturalHeight * scale}px`;
    view.scrollTo(
      centre[0] * view.scrollWidth - view.clientWidth / 2,
      centre[1] * view.scrollHeight - view.clientHeight / 2,
    );
    document.getElementById("zoom-factor").textContent = `${scale}×`;
    smaller.disabled = scale === scales[0];
    larger.disabled = scale === scales.at(-1);
  };
  const step = (by) => {
    const next = scales[scales.indexOf(scale) + by];
    if (!next) return;
    resize(next, [
      (view.scrollLeft + view.clientWidth / 2) / view.scrollWidth,
      (view.scrollTop + view.clientHeight / 2) / view.scrollHeight,
    ]);
  };
  const show = (kind) => {
    image.src = shots[kind].src;
    image.alt = shots[kind].alt;
    dialog.querySelector(`input[value=${kind}]`).checked = true;
  };
  const open = (button) => {
    const card = button.closest(".card");
    opener = button;
    shots = Object.fromEntries(
      [...card.querySelectorAll(".shot")].map((shot) => [shot.dataset.kind, shot.querySelector("img")]),
    );
    document.getElementById("zoom-title").textContent = card.querySelector("h3 bdi").textContent;
    show("restored");
    dialog.showModal();
    dialog.querySelector("input:checked").focus(); // the arrow keys flip at once
    const { naturalWidth, naturalHeight } = shots.restored;
    const fits = Math.min(view.clientWidth / naturalWidth, view.clientHeight / naturalHeight);
    resize(scales.findLast((each) => each <= Math.max(2, fits)), [0.5, 0.5]);
  };

  document.querySelectorAll("[data-zoom]").forEach((button) => {
    button.addEventListener("click", () => open(button));
  });
  dialog.querySelectorAll("input[name=zoom-kind]").forEach((radio) => {
    radio.addEventListener("change", () => show(radio.value));
  });
  smaller.addEventListener("click", () => step(-1));
  larger.addEventListener("click", () => step(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "=") step(1);
    if (event.key === "-") step(-1);
  });
  document.getElementById("zoom-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  dialog.addEventListener("close", () => {
    image.removeAttribute("src");
    opener?.focus();
  });
  // Touch scrolls by itself; a mouse drags
  view.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && event.buttons === 1) {
      view.scrollBy(-event.movementX, -event.movementY);
    }
  });
}

/* What is folded away on the screen is printed all the same. */
function setUpPrint() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((each) => (each.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((each) => (each.open = false)));
}
