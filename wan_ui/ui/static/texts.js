// The text of a key of the catalogue's section "script", in the page's language; `values` fill its placeholders.
/** @param {string} key @param {Record<string, any>} values @returns {string} */
const textOf = (key, values = {}) => {
  const entry = window.gradio_config.texts[key];
  const text = typeof entry === 'object' ? entry[values.count === 1 ? 'one' : 'other'] : entry ?? key;
  return text.replace(/\{(\w+)\}/g, (/** @type {string} */ placeholder, /** @type {string} */ name) => (name in values ? values[name] : placeholder));
};
// An English message of the API in the page's language where the catalogue has it, as wan_ui/language.py tells it.
/** @param {string} message @returns {string} */
const translated = (message) => {
  for (const [pattern, text] of Object.entries(window.wanUiMessages || {})) {
    /** @type {string[]} */
    const names = [];
    const literal = (/** @type {string} */ part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    const source = pattern.split(/(\{\w+\})/).map((part, index) => {
      if (index % 2 === 0) return literal(part);
      names.push(part.slice(1, -1));
      return '([^]+?)';
    });
    const found = new RegExp(`^${source.join('')}$`).exec(message);
    if (found) return names.reduce((made, name, index) => made.replaceAll(`{${name}}`, found[index + 1]), text);
  }
  return message;
};
