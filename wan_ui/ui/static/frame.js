// The page's frame: light or dark, the keys, and the link to the prompt.
(() => {
  const STORED = 'wan-ui-theme';
  const setTheme = (theme) => document.body.classList.toggle('dark', theme === 'dark');
  const stored = window.localStorage.getItem(STORED);
  if (stored) setTheme(stored);

  const KEYS = [
    ['Ctrl/⌘ + Enter', 'generate'], ['Esc', 'cancel'], [textOf('keys.space'), 'play'], ['← →', 'arrows'],
    ['S', 'favourite'], ['X', 'reject'], ['?', 'keys'],
  ];
  const showKeys = () => {
    let dialog = document.getElementById('keys');
    if (!dialog) {
      const list = make('dl', {}, ...KEYS.flatMap(([key, what]) => [make('dt', {}, key), make('dd', {}, textOf(`keys.${what}`))]));
      const close = makeButton({}, () => dialog.close(), textOf('keys.close'));
      dialog = make('dialog', { id: 'keys', 'aria-label': textOf('keys.title') }, list, close);
      document.body.append(dialog);
    }
    if (!dialog.open) dialog.showModal();
  };
  const isTyping = (target) => target.closest && target.closest('input, textarea, select, [contenteditable]');
  document.addEventListener('keydown', (event) => {
    if (event.key === '?' && !isTyping(event.target) && !event.ctrlKey && !event.metaKey) showKeys();
  });
  document.addEventListener('click', (event) => {
    const pressed = event.target.closest && event.target.closest('[data-do], [data-insert]');
    if (!pressed) return;
    if (pressed.dataset.insert) window.wanUi.dom.insert('prompt', pressed.dataset.insert);
    else if (pressed.dataset.do === 'keys') showKeys();
    else if (pressed.dataset.do === 'theme') {
      const theme = document.body.classList.contains('dark') ? 'light' : 'dark';
      setTheme(theme);
      window.localStorage.setItem(STORED, theme);
    } else if (pressed.dataset.do === 'skip') {
      event.preventDefault();
      const prompt = window.wanUi.dom.input('prompt');
      if (prompt) prompt.focus();
    }
  });
  // The server decides the language of a page by the cookie, so that it is right from the first paint on.
  document.addEventListener('change', (event) => {
    if (!event.target.matches || !event.target.matches('[data-do="language"]')) return;
    const secure = window.location.protocol === 'https:' ? '; Secure' : '';
    document.cookie = `wan_ui_language=${event.target.value}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
    window.location.reload();
  });
})();
