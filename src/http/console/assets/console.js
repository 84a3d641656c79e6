// What pages can do with scripts: times in the viewer's zone, copying, and parts that refresh by
// themselves. Everything else works without.
"use strict";

(() => {
  const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

  function ago(at, now) {
    const seconds = Math.floor(Math.abs(now - at) / 1000);
    if (at <= now && seconds < 5) return "just now";
    const [size, unit] = seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"]
      : seconds < 86400 ? [3600, "h"] : [86400, "d"];
    const span = `${Math.floor(seconds / size)} ${unit}`;
    return at > now ? `in ${span}` : `${span} ago`;
  }

  /** How far the viewer's clock is from the server's. */
  const main = document.getElementById("main");
  const offset = main?.dataset.now ? Date.now() - new Date(main.dataset.now).getTime() : 0;

  function showTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.title = zoned.format(at);
    }
  }

  function tick() {
    const now = Date.now() - offset;
    for (const time of document.querySelectorAll("time[datetime]")) {
      const text = ago(new Date(time.dateTime).getTime(), now);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function offerCopies(root) {
    for (const button of root.querySelectorAll("button[data-copy]")) {
      if (!button.hidden || !navigator.clipboard) continue;
      button.hidden = false;
      button.addEventListener("click", async () => {
        const source = document.getElementById(button.dataset.copy);
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
    }
  }

  // The part that refreshes by itself. What is under the pointer, has the focus or is selected does
  // not move: a button says that there are updates.

  /** The content as the server sent it, without the times, which change by themselves. */
  function content(live) {
    const copy = live.cloneNode(true);
    for (const time of copy.querySelectorAll("time")) {
      time.textContent = "";
      time.removeAttribute("title");
    }
    for (const button of copy.querySelectorAll("button[data-copy]")) button.hidden = true;
    for (const details of copy.querySelectorAll("details")) details.removeAttribute("open");
    return copy.innerHTML;
  }

  let isWanted = false;
  /** When the part was last known to be current, and whether the page says that it is not any more. */
  let current = Date.now();
  let isStale = false;

  // The service says when something has happened. Where it can't, the page is read again every few
  // seconds.

  const POLL = 5000;
  const FIRST_RETRY = 10000;
  const MAX_RETRY = 300000;
  let retryAfter = FIRST_RETRY;
  let changes = null;
  let isFollowing = false;
  let hasChanged = false;
  let refreshedAt = Date.now();

  function follow() {
    const address = document.getElementById("live")?.dataset.changes;
    if (!address || changes || document.hidden) return;
    changes = new EventSource(address);
    // Something may have happened before.
    changes.addEventListener("open", () => {
      retryAfter = FIRST_RETRY;
      isFollowing = true;
      hasChanged = true;
      refreshIfDue();
    });
    changes.addEventListener("changed", () => { hasChanged = true; refreshIfDue(); });
    changes.addEventListener("error", () => {
      if (isFollowing) current = Date.now();
      isFollowing = false;
      // The browser connects again, except after a refusal, such as of a node that shuts down.
      if (changes?.readyState !== EventSource.CLOSED) return;
      unfollow();
      setTimeout(follow, retryAfter);
      retryAfter = Math.min(2 * retryAfter, MAX_RETRY);
    });
  }

  function unfollow() {
    changes?.close();
    changes = null;
    isFollowing = false;
  }

  function showStale(why) {
    if (isFollowing) hasChanged = true;
    const updates = document.getElementById("updates");
    if (!updates) return;
    isStale = true;
    updates.classList.add("stale");
    updates.replaceChildren(`Not updated since ${zoned.format(current)}: ${why}`);
  }

  function isCurrent() {
    current = Date.now();
    if (!isStale) return;
    isStale = false;
    const updates = document.getElementById("updates");
    updates.classList.remove("stale");
    updates.replaceChildren();
  }

  for (const failed of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(failed, () => showStale("the service does not answer."));
  }

  function isInUse(live) {
    const selection = document.getSelection();
    const isSelected = selection && !selection.isCollapsed && selection.containsNode(live, true);
    const isOpen = live.querySelector("details[open]") !== null;
    const isChosen = live.querySelector("input:checked") !== null;
    return live.matches(":hover") || live.contains(document.activeElement) || isSelected || isOpen || isChosen;
  }

  function offerUpdates() {
    const updates = document.getElementById("updates");
    if (!updates || updates.firstChild) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Show";
    button.addEventListener("click", () => {
      isWanted = true;
      htmx.trigger("#live", "refresh");
    });
    updates.append("Updates are waiting", button);
  }

  // Rows that are selected for an action. They stay selected when the rows are replaced.

  let chosen = [];

  function checkboxes() {
    return [...document.querySelectorAll("#live input[form='selection']")];
  }

  function showSelection() {
    const all = document.getElementById("select-all");
    if (!all) return;
    const boxes = checkboxes();
    const checked = boxes.filter((box) => box.checked).length;
    all.checked = checked > 0 && checked === boxes.length;
    all.indeterminate = checked > 0 && checked < boxes.length;
    document.getElementById("selected").textContent = checked > 0 ? `${checked} selected` : "";
  }

  document.addEventListener("change", (event) => {
    if (event.target.id === "select-all") {
      for (const box of checkboxes()) box.checked = event.target.checked;
    }
    showSelection();
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const live = document.getElementById("live");
    if (!live || event.detail.target !== live) return;
    if (event.detail.xhr.status !== 200) {
      // The page stays; the next refresh may succeed.
      event.detail.shouldSwap = false;
      showStale(`the service answers with the status ${event.detail.xhr.status}.`);
      return;
    }
    const fresh = new DOMParser().parseFromString(event.detail.serverResponse, "text/html")
      .getElementById("live");
    if (!fresh) {
      event.detail.shouldSwap = false;
      showStale("the session has ended. Reload the page to sign in again.");
      return;
    }
    isCurrent();
    if (content(fresh) === content(live)) {
      event.detail.shouldSwap = false;
    } else if (!isWanted && isInUse(live)) {
      event.detail.shouldSwap = false;
      offerUpdates();
    } else {
      chosen = checkboxes().filter((box) => box.checked).map((box) => box.value);
    }
  });

  document.addEventListener("htmx:afterSwap", () => {
    isWanted = false;
    isCurrent();
    const updates = document.getElementById("updates");
    if (updates) updates.replaceChildren();
    for (const box of checkboxes()) box.checked = chosen.includes(box.value);
    prepare(document);
  });

  function refreshIfDue() {
    const live = document.getElementById("live");
    if (!live || document.hidden) return;
    const [soonest, latest] = [Number(live.dataset.soonest), Number(live.dataset.latest)];
    const due = hasChanged ? soonest : isFollowing ? latest : Math.min(latest, Math.max(soonest, POLL));
    if (Date.now() - refreshedAt < due) return;
    refreshedAt = Date.now();
    hasChanged = false;
    htmx.trigger(live, "refresh");
  }

  function prepare(root) {
    showTimes(root);
    offerCopies(root);
    for (const all of root.querySelectorAll("[data-select-all]")) all.hidden = false;
    showSelection();
  }

  // Where the navigation is a strip, the current part is in view.
  document.querySelector("nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  prepare(document);
  setInterval(tick, 1000);
  follow();
  setInterval(refreshIfDue, 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      unfollow();
    } else {
      follow();
      hasChanged = true;
      refreshIfDue();
    }
  });
  // A page that is kept for the back button must not keep its stream.
  window.addEventListener("pagehide", unfollow);
  window.addEventListener("pageshow", follow);
})();
