/* The fields of "Try it": sliders and lists follow their fields, and the champion is asked when the reader pauses. */
(function () {
  "use strict";
  const PAUSE = 120, LONGEST = 400;
  let timer = 0, since = 0, waiting = null;

  function place(element) {
    return element.dataset.field ? Number(element.dataset.field) : JSON.parse(element.id).index;
  }
  function set(index, value) {
    window.dash_clientside.set_props({ type: "try-field", index: index }, { value: value });
  }
  function sliders() { return document.querySelectorAll("input[type=range][id*='try-slider']"); }

  document.addEventListener("input", function (event) {
    if (event.target.matches("input[type=range][id*='try-slider']")) { set(place(event.target), Number(event.target.value)); }
  });
  document.addEventListener("change", function (event) {
    if (event.target.matches("select[data-field]")) { set(place(event.target), event.target.value); }
  });
  /* What was taken into the fields is seen: the prediction is scrolled into view. */
  document.addEventListener("click", function (event) {
    if (event.target instanceof Element && event.target.closest("[data-take]")) {
      document.querySelector(".try-says").scrollIntoView({ block: "center" });
    }
  });

  function follow(values) {
    for (const each of sliders()) {
      const value = values[place(each)];
      each.closest("label").classList.toggle("off", typeof value !== "number");
      if (typeof value === "number" && Number(each.value) !== value) { each.value = value; }
    }
    for (const each of document.querySelectorAll("select[data-field]")) { each.value = values[place(each)] || ""; }
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    trial: {
      /* Returns the values after a pause, or after a while of changes without one; earlier calls return nothing. */
      collect: function (values, inputs) {
        const none = window.dash_clientside.no_update;
        if (!inputs || values.length !== inputs.columns.length) { return none; }
        follow(values);
        const now = Date.now();
        if (waiting) { waiting(none); } else { since = now; }
        window.clearTimeout(timer);
        return new Promise(function (resolve) {
          waiting = resolve;
          timer = window.setTimeout(function () {
            waiting = null;
            resolve({ of: inputs.pipeline_version, model: inputs.version, values: values });
          }, Math.max(0, Math.min(PAUSE, since + LONGEST - now)));
        });
      },
    },
  });
})();
