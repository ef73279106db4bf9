// The text of a key of the catalogue's section "script", in the page's language; `values` fill its placeholders.
const textOf = (key, values = {}) => {
  const entry = window.gradio_config.texts[key];
  const text = typeof entry === 'object' ? entry[values.count === 1 ? 'one' : 'other'] : entry ?? key;
  return text.replace(/\{(\w+)\}/g, (placeholder, name) => (name in values ? values[name] : placeholder));
};
