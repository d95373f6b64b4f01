/* What the browser does itself: theme, time zone, pausing while the tab is hidden, and drawing without flicker. */
(function () {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try { return window.localStorage.getItem("monitoring-theme"); } catch (error) { return null; }
  }
  function theme() {
    return chosen() || (dark.matches ? "dark" : "light");
  }
  function apply() {
    document.documentElement.dataset.theme = theme();
  }
  apply();

  function client() {
    return {
      theme: theme(),
      zone: Intl.DateTimeFormat().resolvedOptions().timeZone || "",
      offset: new Date().getTimezoneOffset(),
    };
  }
  function tell(id, properties) {
    if (window.dash_clientside && window.dash_clientside.set_props) {
      window.dash_clientside.set_props(id, properties);
    }
  }

  /* One request at a time for each part: a slow machine lags, but requests do not pile up. */
  const asked = {};
  const PATIENCE = 10000;
  const LOST = 10000;
  let last = 0;
  function ask(name) {
    const now = Date.now(), one = asked[name];
    const element = document.querySelector(name === "shell" ? "#shell" : "[data-view='" + name + "']");
    if (!element) { return; }
    if (one && now - one.sent < PATIENCE && one.element === element) {
      one.again = true;
      return;
    }
    last = Math.max(now, last + 1);
    asked[name] = { sent: last, again: false, element: element };
    tell(name + "-go", { data: last });
  }

  /* The page is marked as out of date when the service stops answering. */
  let heard = Date.now();
  window.setInterval(function () {
    if (document.hidden) { heard = Date.now(); }
    document.documentElement.toggleAttribute("data-lost", Date.now() - heard > LOST);
  }, 1000);

  dark.addEventListener("change", function () {
    apply();
    tell("client", { data: client() });
  });

  /* A hidden tab asks for nothing; it is updated as soon as it is visible again. */
  document.addEventListener("visibilitychange", function () {
    tell("tick", { disabled: document.hidden });
    if (!document.hidden) { tell("wake", { data: Date.now() }); }
  });

  /* Changes only what differs, so that nothing flickers and no animation restarts. */
  function morph(old, next) {
    if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) {
      old.replaceWith(next.cloneNode(true));
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== next.data) { old.data = next.data; }
      return;
    }
    for (const attribute of Array.from(old.attributes)) {
      if (!next.hasAttribute(attribute.name)) { old.removeAttribute(attribute.name); }
    }
    for (const attribute of Array.from(next.attributes)) {
      if (old.getAttribute(attribute.name) !== attribute.value) { old.setAttribute(attribute.name, attribute.value); }
    }
    const before = Array.from(old.childNodes), after = Array.from(next.childNodes);
    after.forEach(function (child, i) {
      if (i < before.length) { morph(before[i], child); } else { old.appendChild(child.cloneNode(true)); }
    });
    before.slice(after.length).forEach(function (child) { child.remove(); });
  }

  function drawInto(id, markup) {
    const place = document.getElementById(id);
    if (!place) { return false; }
    const next = document.createElement("div");
    next.innerHTML = markup;
    while (place.childNodes.length > next.childNodes.length) { place.lastChild.remove(); }
    Array.from(next.childNodes).forEach(function (child, i) {
      if (i < place.childNodes.length) { morph(place.childNodes[i], child); } else { place.appendChild(child.cloneNode(true)); }
    });
    return true;
  }

  /* The elements may be created at the same time as the drawings; retry until they are there. */
  function drawAll(pictures, tries) {
    const missing = {};
    for (const [id, markup] of Object.entries(pictures)) {
      if (!drawInto(id, markup)) { missing[id] = markup; }
    }
    if (Object.keys(missing).length && tries > 0) {
      window.requestAnimationFrame(function () { drawAll(missing, tries - 1); });
    }
  }

  /* What a question mark has opened is closed by Escape, and by a click elsewhere. */
  function closeTerms(except) {
    for (const each of document.querySelectorAll(".terms[open]")) {
      if (each !== except) { each.removeAttribute("open"); }
    }
  }
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { closeTerms(null); }
  });
  document.addEventListener("click", function (event) {
    closeTerms(event.target instanceof Element ? event.target.closest(".terms") : null);
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    page: {
      client: function (clicks) {
        if (clicks && window.dash_clientside.callback_context.triggered.some((each) => each.prop_id === "theme.n_clicks")) {
          try { window.localStorage.setItem("monitoring-theme", theme() === "dark" ? "light" : "dark"); } catch (error) { /* as it is */ }
        }
        apply();
        return client();
      },
      /* Updates the frame and the visible view; other views ask for nothing. */
      go: function () {
        ask("shell");
        const view = document.querySelector("[data-view]");
        if (view) { ask(view.dataset.view); }
        return window.dash_clientside.no_update;
      },
      done: function (sent) {
        heard = Date.now();
        for (const [name, one] of Object.entries(asked)) {
          if (one.sent === sent) {
            delete asked[name];
            if (one.again) { ask(name); }
          }
        }
        return window.dash_clientside.no_update;
      },
      draw: function (data) {
        if (data) {
          const pictures = Array.isArray(data) ? { "overview-flow-at": data.join("") } : data;
          drawAll(pictures, 30);
        }
        return window.dash_clientside.no_update;
      },
    },
  });
})();
