element.addEventListener('click', (event) => {
  const fix = event.target.closest('button[data-fix]');
  if (fix) trigger('click', {row: fix.dataset.fix});
  const copy = event.target.closest('button[data-copy]');
  if (!copy) return;
  const text = copy.parentElement.querySelector('pre');
  const marked = () => {
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  if (!navigator.clipboard) { marked(); return; }  // without TLS there is none
  navigator.clipboard.writeText(text.textContent).then(
    () => { copy.textContent = textOf('check.copied'); setTimeout(() => { copy.textContent = textOf('check.copy'); }, 2000); }, marked);
});
