// The text of a key of the catalogue's section "script", in the page's language; `values` fill its placeholders.
/** @param {string} key @param {Record<string, any>} values @returns {string} */
const textOf = (key, values = {}) => {
  const entry = window.gradio_config.texts[key];
  const text = typeof entry === 'object' ? entry[values.count === 1 ? 'one' : 'other'] : entry ?? key;
  return text.replace(/\{(\w+)\}/g, (/** @type {string} */ placeholder, /** @type {string} */ name) => (name in values ? values[name] : placeholder));
};
// An English message of the API in the page's language where the catalogue has it, as wan_ui/language.py tells it.
const translated = (() => {
  const LONGEST = 2000, MOST_NESTED = 12; // as there: what people wrote may nearly match, or be nested without end
  const BOUNDARY = /[.!?] +[A-Z]/;
  /** @typedef {{ texts: string[], names: string[], text: string, several: boolean }} Form */
  /** @type {{ known: Record<string, string> | undefined, forms: Form[] }} */
  const compiled = { known: undefined, forms: [] };
  /** @param {string} english @param {string} text @returns {Form} `several`: its last value may hold several sentences */
  const formOf = (english, text) => {
    const pieces = english.split(/\{(\w+)\}/);
    const even = (/** @type {number} */ rest) => pieces.filter((_, index) => index % 2 === rest);
    return { texts: even(0), names: even(1), text, several: pieces[pieces.length - 1].length <= 1 };
  };
  const forms = () => {
    if (compiled.known !== window.wanUiMessages) {
      compiled.known = window.wanUiMessages;
      compiled.forms = Object.entries(compiled.known || {}).map(([english, text]) => formOf(english, text));
    }
    return compiled.forms;
  };
  /** Each value as short as may be, in linear time. @param {Form} form @param {string} message @returns {string[] | null} */
  const valuesIn = ({ texts, names, several }, message) => {
    let start = texts[0].length;
    const last = texts[texts.length - 1], end = message.length - last.length;
    if (!message.startsWith(texts[0]) || !message.endsWith(last)) return null;
    if (!names.length) return message === texts[0] ? [] : null;
    const values = [];
    for (let number = 1; number <= names.length; number += 1) {
      const isLast = number === names.length, stop = isLast ? end : message.indexOf(texts[number], start + 1);
      if (stop <= start || stop > end) return null;
      const boundary = isLast && several ? -1 : message.slice(start).search(BOUNDARY);
      if (boundary >= 0 && boundary < stop - start) return null;
      values.push(message.slice(start, stop));
      start = stop + texts[number].length;
    }
    return values;
  };
  /** @param {string} message @param {number} depth @returns {string | null} */
  const asOne = (message, depth) => {
    for (const form of forms()) {
      const values = valuesIn(form, message);
      if (values) return form.names.reduce((made, name, index) => made.replaceAll(`{${name}}`, () => whole(values[index], depth - 1)), form.text);
    }
    return null;
  };
  /** @param {string[]} parts sentences, of which entries match one or more @param {number} depth @returns {string | null} */
  const joined = (parts, depth) => {
    for (let end = parts.length; end > 0; end -= 1) {
      const one = asOne(parts.slice(0, end).join(' '), depth);
      const rest = one === null || end === parts.length ? '' : joined(parts.slice(end), depth);
      if (one !== null) return rest === null ? null : one + rest;
    }
    return null;
  };
  /** @param {string} message @param {number} depth of messages within each other @returns {string} */
  const whole = (message, depth = MOST_NESTED) => {
    if (depth === 0 || message.length > LONGEST) return message;
    const parts = message.split(/(?<=[.!?]) +(?=[A-Z])/);
    const several = joined(parts.length <= 8 ? parts : [message], depth);
    if (several !== null) return several;
    const [name, ...after] = message.split(': ');
    const rest = after.join(': ');
    const known = after.length && after.length <= 8 ? whole(rest, depth - 1) : rest;
    return known === rest ? message : `${whole(name, depth - 1)}: ${known}`;
  };
  return (/** @type {string} */ message) => whole(message);
})();
