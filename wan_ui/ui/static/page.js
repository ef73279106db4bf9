// What only the browser can do: Ctrl/Cmd+Enter, the notice that the server is gone, bringing the card into view, and
// keeping what is typed while the page still opens.
(() => {
  window.wanUiOpeningEnded(); // Gradio calls this script when it has drawn the page

  // What `translated` knows, which would be a fifth of the document; it is needed when something goes wrong.
  const { messages } = window.gradio_config;
  if (messages) window.fetch(messages).then((answer) => answer.json()).then((known) => { window.wanUiMessages = known; }, () => {});

  const visible = (element) => element && element.offsetParent !== null;

  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat) return;
      const button = [...document.querySelectorAll("button.generate")].find(visible);
      if (!button || button.disabled) return;
      event.preventDefault();
      event.stopPropagation();
      button.click();
    },
    true,
  );

  // Escape cancels the card's job where nothing that it would close has the focus.
  document.addEventListener("keydown", (event) => {
    const cancel = document.getElementById("cancel");
    const focus = document.activeElement;
    if (event.key !== "Escape" || event.defaultPrevented || event.repeat || !(cancel instanceof HTMLButtonElement)) return;
    if (cancel.disabled || !visible(cancel) || (focus && focus !== document.body && !focus.closest("#now, button.generate"))) return;
    if (document.querySelector("dialog[open], :popover-open")) return;
    cancel.click();
  });

  // Gradio's text boxes report an edit on keypress only, which deleting, pasting and dictating do not cause.
  document.addEventListener("input", (event) => {
    if (event.target.closest("#top label.show_textbox_border")) {
      event.target.dispatchEvent(new KeyboardEvent("keypress", { bubbles: true }));
    }
  });

  // The page's first answers put into the forms what they held before, and those to the choice of a model what it starts
  // with, over what was typed meanwhile: that is put back as soon as they are in.
  const FORMS = [".compare-form", "#form"];
  const waiting = new Set(FORMS);
  const typed = new Map();
  const next = new Map();
  const formOf = (element) => FORMS.find((form) => element.closest(form));
  const isChoice = (control) => control.type === "radio" || control.type === "checkbox";
  const keep = (event) => {
    const control = event.target;
    if (!waiting.has(formOf(control)) || control.type === "file" || control.closest("#loras, #axes")) return;
    const value = isChoice(control) ? control.checked : control.value;
    typed.set(control, { value, start: control.selectionStart, end: control.selectionEnd });
  };
  document.addEventListener("input", keep, true);
  // A key that is pressed when the answer is in, and what was typed not yet back, goes into what was typed.
  document.addEventListener("beforeinput", ({ target: control }) => {
    const was = typed.get(control);
    if (!was || isChoice(control) || control.value === was.value) return;
    control.value = was.value;
    if (typeof was.start === "number") control.setSelectionRange(was.start, was.end);
  }, true);
  const putBack = (control, { value, start, end }) => {
    const name = isChoice(control) ? "checked" : "value", isChanged = control[name] !== value;
    if (isChanged) control[name] = value;
    if (isChanged && control === document.activeElement && typeof start === "number") control.setSelectionRange(start, end);
    window.wanUi.dom.announce(control);
  };
  // On a phone the last video's box is above the form, and would move it down in sight.
  const looked = new Promise((resolve) => { window.wanUi.lookAnswered = () => resolve(null); }).then(whenDrawn);
  const filled = async (form) => {
    await whenDrawn();
    waiting.delete(form);
    for (const [control, was] of typed) {
      if (formOf(control) !== form) continue;
      typed.delete(control);
      putBack(control, was);
    }
    // What covers the page while it opens, see skeleton.html; a comparison's link opens on its board.
    const last = new URLSearchParams(window.location.search).has('compare') ? '.compare-form' : '#form';
    if (form === last) looked.then(() => document.dispatchEvent(new Event('wan-ui-shown')));
    const then = next.get(form);
    next.delete(form);
    if (then) then();
    document.dispatchEvent(new CustomEvent("wan-ui-filled", { detail: form }));
    window.wanUi.held.look();
  };
  window.wanUi.held.waitFor(() => waiting.has("#form") && textOf("pressed.filling"));
  window.wanUi.filled = filled;
  // A choice of another model, or a press in the LoRA block, is answered with values for the form.
  window.wanUi.filling = (form) => waiting.add(form);
  window.wanUi.isFilling = (form) => waiting.has(form);
  window.wanUi.afterFilling = (form, then) => next.set(form, then);

  // A press that fills the Compare tab waits for the last answer of the page's opening, which would else overwrite it.
  // Of several presses the last one counts.
  let isOpening = true, proceed = null;
  window.wanUi.afterOpening = (values) => isOpening ? new Promise((resolve) => { proceed = () => resolve(values); }) : values;
  window.wanUi.openingEnded = () => {
    isOpening = false;
    if (proceed) proceed();
  };

  // Below the two-column width the card is far under the form.
  document.addEventListener("click", (event) => {
    if (!event.target.closest("button.generate, .jobs button.show")) return;
    const player = document.getElementById("player");
    const started = event.target.closest("button.generate");
    const card = started && visible(player) ? player : document.getElementById(started ? "now" : "result");
    const box = card && card.getBoundingClientRect();
    if (box && (box.top > window.innerHeight - (card === player ? 360 : 120) || box.bottom < 0)) {
      card.scrollIntoView({ behavior: reducedMotion.matches ? "auto" : "smooth", block: "start" });
    }
  });

  // Gradio calls every file input "File upload" and a slider's number "number input for …", and a label with a copy
  // button in it names the button: give each the name that is written above it.
  const prefix = "number input for ";
  const name = () => {
    for (const input of document.querySelectorAll(`input[aria-label^="${prefix}"]`)) {
      const label = input.getAttribute("aria-label").slice(prefix.length);
      input.setAttribute("aria-label", label);
      const range = input.closest(".block").querySelector('input[type="range"]');
      if (range) range.setAttribute("aria-label", textOf('page.slider', { label }));
    }
    for (const button of document.querySelectorAll('button[aria-label^=Paste]')) {
      button.setAttribute("aria-label", textOf("page.paste"));
    }
    for (const area of document.querySelectorAll("label:has(button) textarea:not([aria-label])")) {
      const label = area.closest("label").querySelector('[data-testid="block-info"]');
      if (label) area.setAttribute("aria-label", label.textContent.trim());
    }
    for (const input of document.querySelectorAll('input[type="file"]:not([data-named])')) {
      const label = input.closest(".block") && input.closest(".block").querySelector("label.float");
      if (!label) continue;
      input.dataset.named = "";
      input.setAttribute("aria-label", label.textContent.trim());
      const button = input.closest("button");
      if (button) button.setAttribute("aria-label", textOf('page.click_or_drop', { label: label.textContent.trim() }));
    }
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();

  // One short message at a time, for what happened where nobody looks. What went wrong stays longer, and can be closed.
  const toastText = make("span");
  const toastClose = make("button", { type: "button", "aria-label": textOf("page.close"), hidden: "" });
  const toast = make("div", { id: "toast", role: "status" }, toastText, toastClose);
  document.body.append(toast);
  let gone = null;
  const hideToast = () => toast.classList.remove("on");
  window.wanUi.toast = (text, isError = false) => {
    toast.setAttribute("role", isError ? "alert" : "status");
    toast.classList.toggle("error", isError);
    toastClose.hidden = !isError;
    toastText.textContent = text;
    toast.classList.add("on");
    window.clearTimeout(gone);
    gone = window.setTimeout(hideToast, isError ? 10000 : 4000);
  };
  toastClose.addEventListener("click", hideToast);
  window.wanUi.dom.takeToasts((text, isError) => window.wanUi.toast(translated(text), isError));

  const notice = make("div", { id: "server-gone", role: "alert", hidden: "" });
  document.body.append(notice);

  let failures = 0;
  const heard = (well) => {
    failures = well ? 0 : failures + 1;
    if (failures >= 2 && notice.hidden) {
      notice.textContent = textOf('page.server_gone');
      notice.hidden = false;
    } else if (well && !notice.hidden) {
      notice.hidden = true;
      notice.textContent = "";
    }
  };

  window.wanUi.heard = heard; // stream.js says whether its connection stands
  const original = window.fetch.bind(window);
  window.fetch = async (...call) => {
    try {
      const answer = await original(...call);
      heard(true);
      return answer;
    } catch (error) {
      if (error.name !== "AbortError") heard(false);
      throw error;
    }
  };
})();
