// Renders our own Helm chart, so that the plain manifests are made from it and tests can look at what any values give.
// It knows exactly the part of Helm's template language that deploy/helm uses, and refuses everything else by name.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parse, stringify } from 'yaml';

const FUNCTIONS = {
  not: (value) => !truth(value),
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
  and: (...all) => all.find((value) => !truth(value)) ?? all.at(-1),
  or: (...all) => all.find(truth) ?? all.at(-1),
  default: (fallback, value) => (truth(value) ? value : fallback),
  quote: (value) => JSON.stringify(String(value)),
  toYaml: (value) => stringify(value, { lineWidth: 0 }).replace(/\n$/, ''),
  nindent: (count, text) => `\n${text.replace(/^(?=.)/gm, ' '.repeat(count))}`,
  required: (message, value) => {
    if (!truth(value)) throw new Error(message);
    return value;
  },
};

/** Go's templates: zero, empty and absent are false. */
function truth(value) {
  if (value === null || value === undefined || value === false || value === 0 || value === '') return false;
  return typeof value !== 'object' || Object.keys(value).length > 0;
}

/** Text and actions in turn, with the blanks that `{{-` and `-}}` take away gone. */
function tokens(source) {
  const found = [];
  let at = 0;
  let trimNext = false;
  for (const match of source.matchAll(/\{\{(-?)\s*(.*?)\s*(-?)\}\}/gs)) {
    let text = source.slice(at, match.index);
    if (trimNext) text = text.trimStart();
    if (match[1] === '-') text = text.trimEnd();
    if (text !== '') found.push({ text });
    if (!match[2].startsWith('/*')) found.push({ action: match[2] });
    trimNext = match[3] === '-';
    at = match.index + match[0].length;
  }
  const rest = source.slice(at);
  found.push({ text: trimNext ? rest.trimStart() : rest });
  return found;
}

/** A tree of blocks. Returns the nodes up to an `else` or `end`, and which of the two it was. */
function block(list, defines) {
  const nodes = [];
  for (;;) {
    const token = list.shift();
    if (token === undefined) return { nodes, ended: '' };
    if (token.text !== undefined) {
      nodes.push(token);
      continue;
    }
    const [word, ...rest] = token.action.split(/\s+/);
    if (word === 'end' || word === 'else') {
      if (rest.length > 0) throw new Error(`{{ ${token.action} }} is beyond this renderer`);
      return { nodes, ended: word };
    }
    if (word === 'if') {
      const yes = block(list, defines);
      const no = yes.ended === 'else' ? block(list, defines) : { nodes: [], ended: yes.ended };
      if (no.ended !== 'end') throw new Error(`{{ ${token.action} }} has no end`);
      nodes.push({ condition: token.action.slice(3), yes: yes.nodes, no: no.nodes });
    } else if (word === 'define') {
      defines.set(JSON.parse(rest[0]), block(list, defines).nodes);
    } else nodes.push(token);
  }
}

function words(text) {
  return text.match(/"(?:[^"\\]|\\.)*"|[()|]|[^\s()|]+/g) ?? [];
}

/** `a b (c d) | e f`: each further stage gets the value before as its last argument. */
function evaluate(list, scope) {
  let value;
  let isFirst = true;
  for (;;) {
    const call = [];
    while (list.length > 0 && list[0] !== '|' && list[0] !== ')') call.push(operand(list, scope));
    if (!isFirst) call.push({ value });
    value = apply(call, scope);
    isFirst = false;
    if (list[0] !== '|') return value;
    list.shift();
  }
}

function operand(list, scope) {
  const word = list.shift();
  if (word === '(') {
    const value = evaluate(list, scope);
    if (list.shift() !== ')') throw new Error('a bracket is not closed');
    return { value };
  }
  if (word.startsWith('"')) return { value: JSON.parse(word) };
  if (/^-?\d+$/.test(word)) return { value: Number(word) };
  if (word === '.') return { value: scope.root };
  if (word.startsWith('.'))
    return {
      value: word
        .slice(1)
        .split('.')
        .reduce((value, name) => value?.[name], scope.root),
    };
  return { name: word };
}

function apply([head, ...rest], scope) {
  if (head.name === undefined) {
    if (rest.length > 0) throw new Error('a value is called like a function');
    return head.value;
  }
  const values = rest.map(({ value }) => value);
  if (head.name === 'include') return render(scope.defines.get(values[0]), scope);
  const found = Object.hasOwn(FUNCTIONS, head.name) ? FUNCTIONS[head.name] : undefined;
  if (found === undefined) throw new Error(`the function ${head.name} is beyond this renderer`);
  return found(...values);
}

function render(nodes, scope) {
  return nodes
    .map((node) => {
      if (node.text !== undefined) return node.text;
      if (node.condition !== undefined)
        return render(truth(evaluate(words(node.condition), scope)) ? node.yes : node.no, scope);
      return String(evaluate(words(node.action), scope) ?? '');
    })
    .join('');
}

/** Values laid over the chart's own, as Helm does: maps are merged, everything else is replaced. */
function merged(base, over) {
  if (over === undefined) return base;
  const isMap = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isMap(base) || !isMap(over)) return over;
  const all = { ...base };
  for (const [name, value] of Object.entries(over)) all[name] = merged(base[name], value);
  return all;
}

/**
 * What the chart in `folder` gives, by template file: text without the files that came out empty. Throws an Error
 * that begins with the template's name.
 */
export function renderChart(folder, values = {}, namespace = 'kube-system') {
  const chart = parse(readFileSync(path.join(folder, 'Chart.yaml'), 'utf8'));
  const own = parse(readFileSync(path.join(folder, 'values.yaml'), 'utf8'));
  const templates = path.join(folder, 'templates');
  const names = readdirSync(templates).sort();
  const root = {
    Values: merged(own, values),
    Release: { Name: 'triplane', Namespace: namespace },
    Chart: { AppVersion: chart.appVersion, Name: chart.name, Version: chart.version },
  };
  const defines = new Map();
  const parsed = names.map((name) => [
    name,
    block(tokens(readFileSync(path.join(templates, name), 'utf8')), defines).nodes,
  ]);
  const files = new Map();
  for (const [name, nodes] of parsed) {
    if (name.startsWith('_')) continue;
    try {
      const text = render(nodes, { root, defines }).trim();
      if (text !== '') files.set(name, `${text}\n`);
    } catch (error) {
      throw new Error(`${name}: ${error.message}`);
    }
  }
  return files;
}
