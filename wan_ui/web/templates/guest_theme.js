{
  const root = document.documentElement, button = document.getElementById('theme');
  button.hidden = false;
  button.addEventListener('click', () => {
    const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
    root.dataset.theme = (root.dataset.theme || system) === 'dark' ? 'light' : 'dark';
    try { localStorage.setItem('wan-ui-theme', root.dataset.theme); } catch (error) { /* for this page alone, then */ }
  });
  const language = document.getElementById('language');
  language.hidden = false;
  language.addEventListener('change', () => {
    const secure = location.protocol === 'https:' ? '; Secure' : '';
    document.cookie = `wan_ui_language=${language.value}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
    location.reload();
  });
}
