// The functions of one of the page's helper scripts, which is a part of a larger script and no module of its own.
import { readFileSync } from 'node:fs';
import { runInThisContext } from 'node:vm';

const FOLDER = new URL('../../wan_ui/ui/static/', import.meta.url);

/** @param {string} name of the file, without .js @param {string[]} names of its functions @param {string[]} after files it needs */
export const load = (name, names, after = []) => {
  const text = [...after, name].map((each) => readFileSync(new URL(`${each}.js`, FOLDER), 'utf-8')).join('\n');
  return runInThisContext(`(() => {\n${text}\nreturn { ${names.join(', ')} };\n})()`, { filename: `${name}.js` });
};
