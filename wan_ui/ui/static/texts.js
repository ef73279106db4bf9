// The text of a key of the catalogue's section "script", in the page's language; `values` fill its placeholders.
/** @param {string} key @param {Record<string, any>} values @returns {string} */
const textOf = (key, values = {}) => {
  const entry = window.gradio_config.texts[key];
  const text = typeof entry === 'object' ? entry[values.count === 1 ? 'one' : 'other'] : entry ?? key;
  return text.replace(/\{(\w+)\}/g, (/** @type {string} */ placeholder, /** @type {string} */ name) => (name in values ? values[name] : placeholder));
};
// An English message of the API in the page's language where the catalogue has it, as wan_ui/language.py tells it.
const translated = (() => {
  /** @type {{ known: Record<string, string> | undefined, patterns: { source: RegExp, names: string[], text: string }[] }} */
  const compiled = { known: undefined, patterns: [] };
  const literal = (/** @type {string} */ part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  /** @param {string} english @param {string} text */
  const patternOf = (english, text) => {
    const pieces = english.split(/\{(\w+)\}/);
    const last = pieces[pieces.length - 1].length <= 1 ? pieces.length - 2 : -1; // the one value that may hold several sentences
    const source = pieces.map((part, index) => (index % 2 === 0 ? literal(part) : index === last ? '([^]+?)' : '((?:(?![.!?] +[A-Z])[^])+?)'));
    return { source: new RegExp(`^${source.join('')}$`), names: pieces.filter((_, index) => index % 2), text };
  };
  const patterns = () => {
    if (compiled.known !== window.wanUiMessages) {
      compiled.known = window.wanUiMessages;
      compiled.patterns = Object.entries(compiled.known || {}).map(([english, text]) => patternOf(english, text));
    }
    return compiled.patterns;
  };
  /** @param {string} message @returns {string | null} */
  const asOne = (message) => {
    for (const { source, names, text } of patterns()) {
      const found = source.exec(message);
      if (found) return names.reduce((made, name, index) => made.replaceAll(`{${name}}`, whole(found[index + 1])), text);
    }
    return null;
  };
  /** @param {string[]} parts sentences, of which entries match one or more @returns {string | null} */
  const joined = (parts) => {
    for (let end = parts.length; end > 0; end -= 1) {
      const one = asOne(parts.slice(0, end).join(' '));
      const rest = one === null || end === parts.length ? '' : joined(parts.slice(end));
      if (one !== null) return rest === null ? null : one + rest;
    }
    return null;
  };
  /** @param {string} message @returns {string} */
  const whole = (message) => {
    const parts = message.split(/(?<=[.!?]) +(?=[A-Z])/);
    const several = joined(parts.length <= 8 ? parts : [message]);
    if (several !== null) return several;
    const [name, ...after] = message.split(': ');
    const rest = after.join(': ');
    const known = after.length && after.length <= 8 ? whole(rest) : rest;
    return known === rest ? message : `${whole(name)}: ${known}`;
  };
  return whole;
})();
