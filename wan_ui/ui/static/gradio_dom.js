// What this page relies on in Gradio's own elements, in one place: how a control is found by its name, read and written
// to so that Gradio takes the value as typed.
(() => {
  const input = (name) => document.querySelector(`#field-${name} textarea, #field-${name} input:not([type=range])`);
  const value = (name) => { const control = input(name); return control ? control.value : ''; };
  // Gradio's numbers and text boxes take their value from an `input` event; text boxes report it on a `keypress`. Of two
  // in one task Gradio starts both events at once, the first with the second's old value, and shows whichever answer
  // comes last: so each change after the first is reported in a task of its own.
  const waiting = [];
  let isReporting = false;
  const report = () => {
    const control = waiting.shift();
    isReporting = control !== undefined;
    if (!isReporting) return;
    for (const name of ['input', 'change']) control.dispatchEvent(new Event(name, { bubbles: true }));
    setTimeout(report);
  };
  const announce = (control) => {
    waiting.push(control);
    if (!isReporting) report();
  };
  const fill = (name, text) => {
    const control = input(name);
    if (!control) return;
    control.value = String(text);
    announce(control);
  };
  const insert = (name, text) => {
    const control = input(name);
    if (!control) return;
    const at = control.selectionStart === null ? control.value.length : control.selectionStart;
    const before = control.value.slice(0, at), after = control.value.slice(control.selectionEnd || at);
    const space = before && !before.endsWith(' ') ? ' ' : '';
    const gap = after && !after.startsWith(' ') ? ' ' : '';
    control.value = before + space + text + gap + after;
    announce(control);
    control.focus();
    control.setSelectionRange(at + space.length + text.length, at + space.length + text.length);
  };
  // An image control keeps its file input while it shows an image; what is put there is uploaded as if it were chosen.
  const giveImage = (name, file) => {
    const chooser = document.querySelector(`#field-${name} input[type=file]`);
    if (!chooser) return false;
    const files = new DataTransfer();
    files.items.add(file);
    chooser.files = files.files;
    chooser.dispatchEvent(new Event('change', { bubbles: true }));
    return true;
  };
  // Gradio says what goes wrong in an event or an upload in toasts of its own: each is given to `show`, and closed.
  const takeToasts = (show) => {
    const take = () => {
      for (const toast of document.querySelectorAll('[data-testid="toast-body"]:not([data-taken])')) {
        toast.dataset.taken = '';
        for (const text of toast.querySelectorAll('[data-testid="toast-text"]')) show(text.textContent.trim(), toast.classList.contains('error'));
        const close = toast.querySelector('[data-testid="toast-close"]');
        if (close) close.click();
      }
    };
    new MutationObserver(take).observe(document.body, { childList: true, subtree: true });
  };
  window.wanUi = /** @type {WanUi} */ (window.wanUi || {}); // the other scripts add their parts
  window.wanUi.dom = { input, value, fill, insert, announce, giveImage, takeToasts };
})();
