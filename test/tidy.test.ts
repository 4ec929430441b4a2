/**
 * Keeps the house in order: what a reviewer would have to look for by hand each time. What a linter can say is in
 * biome.json (functions of at most 70 lines, no default exports); tests that hold two languages together (the
 * header in bpf/ and its TypeScript side) stand with the code they check, as test/bpf/abi.test.ts.
 */
import { spawnSync } from 'node:child_process';
import process from 'node:process';
import { describe, expect, test } from 'vitest';
import { ERRORS } from '../src/model/errors.ts';
import { projectFiles, ROOT, readText } from './support/checkout.ts';
import { circles, type Import, importsOf, reachable } from './support/imports.ts';
import { skipUnless } from './support/skip.ts';

const FILES = projectFiles();
const SOURCES = FILES.filter((file) => /^src\/.*\.ts$/.test(file));
const GRAPH = new Map<string, Import[]>(SOURCES.map((file) => [file, importsOf(file, readText(file))]));
const SELF = 'test/tidy.test.ts';

/** Where a process begins. */
/** What is started by a person, by another program of ours, or by scripts/docs.mjs. */
const ENTRY_POINTS = ['src/cli/main.ts', 'src/dataplane/nft/skeleton-child.ts', 'src/config/reference.ts'];
const program = skipUnless(FILES.includes(ENTRY_POINTS[0]!), `needs ${ENTRY_POINTS[0]}, which is not there`);

/** Lines of "what: why" that must be none, so that a failure shows all of them at once. */
function expectNone(problems: readonly string[]) {
  expect(problems.join('\n')).toBe('');
}

describe('the arrows between the folders of src/ go one way', () => {
  /**
   * Room -> what it may import: a room, or one file. 'model types' are types from anywhere in src/model/, and
   * values only from its VOCABULARY. 'config types' are types only.
   */
  const MAY_USE: Readonly<Record<string, readonly string[]>> = {
    model: [],
    native: ['model types'],
    node: ['model types', 'native'],
    source: ['model'],
    config: ['model types'],
    dataplane: ['model types', 'node', 'native'],
    probe: ['model types', 'dataplane', 'node'],
    agent: ['source', 'model', 'dataplane', 'node', 'probe', 'config types'],
    observe: ['model types', 'config types', 'node', 'src/agent/status.ts'],
    lab: ['model types', 'node', 'native'],
    cli: ['model', 'native', 'node', 'source', 'config', 'dataplane', 'probe', 'agent', 'observe', 'lab'],
  };
  /** Files of src/model/ that say what things are and decide nothing. */
  const VOCABULARY = /^src\/model\/(address|cidr|desired|detector|errors|records|socket)\.ts$/;

  /** src/native.ts and src/native/ are one room. */
  const roomOf = (file: string) => /^src\/([\w-]+)/.exec(file)?.[1] ?? '';

  function isAllowed(from: string, { target, typeOnly }: Import): boolean {
    if (!target.startsWith('src/')) return true;
    const room = roomOf(from);
    const other = roomOf(target);
    const allowed = MAY_USE[room] ?? [];
    if (room === other || allowed.includes(other) || allowed.includes(target)) return true;
    if (other === 'config' && allowed.includes('config types')) return typeOnly;
    return other === 'model' && allowed.includes('model types') && (typeOnly || VOCABULARY.test(target));
  }

  test('every folder of src/ is a room of the house', () => {
    expectNone(SOURCES.filter((file) => !(roomOf(file) in MAY_USE)));
  });

  test('no import goes against the table', () => {
    const wrong = [...GRAPH].flatMap(([file, imports]) =>
      imports.filter((one) => !isAllowed(file, one)).map((one) => `${file} imports ${one.target}`),
    );
    expectNone(wrong);
  });

  test('src/model/ imports nothing but itself: no package, no node: module', () => {
    const wrong = [...GRAPH].flatMap(([file, imports]) =>
      roomOf(file) === 'model'
        ? imports
            .filter(({ target }) => !target.startsWith('src/model/'))
            .map(({ target }) => `${file} imports ${target}`)
        : [],
    );
    expectNone(wrong);
  });

  test('every import names a file that is there', () => {
    const wrong = [...GRAPH].flatMap(([file, imports]) =>
      imports
        .filter(({ target }) => target.startsWith('src/') && !GRAPH.has(target))
        .map(({ target }) => `${file} imports ${target}`),
    );
    expectNone(wrong);
  });

  test('no file imports itself in a circle', () => {
    expectNone(circles(GRAPH));
  });

  program.test('every file is used by the program', () => {
    const used = reachable(ENTRY_POINTS, GRAPH);
    expectNone(SOURCES.filter((file) => !used.has(file)));
  });
});

describe('what is not written here', () => {
  interface Ban {
    readonly what: string;
    readonly pattern: RegExp;
    /** Files in which it is looked for. */
    readonly where: RegExp;
    /** Files among them that may. */
    readonly except?: RegExp;
    readonly instead: string;
  }

  const CODE = /^(src|test|bench|scripts)\/.*\.(ts|mjs)$/;
  const MODEL = /^src\/model\//;
  const BANS: readonly Ban[] = [
    {
      what: 'exec() of a command line',
      pattern:
        /import\s*\{[^}]*\bexec(Sync)?\b[^}]*\}\s*from\s*'node:child_process'|child_process\.exec(Sync)?\(/,
      where: CODE,
      instead: 'execFile or spawn with a list of arguments: nothing reaches a shell',
    },
    {
      what: 'a shell',
      pattern: /\bshell:\s*(true|')/,
      where: CODE,
      instead: 'spawn with a list of arguments',
    },
    {
      what: 'route_localnet',
      pattern: /conf\/[^'"`\s]*route_localnet/,
      where: /^(src|native|bpf|deploy)\//,
      instead: 'nothing: NodePorts do not answer on loopback (CVE-2020-8558)',
    },
    { what: 'eval', pattern: /\beval\(|new Function\(/, where: CODE, instead: 'a table of functions' },
    {
      what: 'process.exit()',
      pattern: /\bprocess\.exit\(/,
      where: /^src\//,
      except: /^src\/(cli\/|dataplane\/nft\/skeleton-child\.ts|lab\/cleanup\.ts)/,
      instead: 'throw a TriplaneError; only src/cli ends the process',
    },
    {
      what: 'console',
      pattern: /\bconsole\.\w+\(/,
      where: /^src\//,
      except: /^src\/(cli|lab)\//,
      instead: 'the logger that was passed in',
    },
    {
      what: 'a clock in the model',
      pattern: /\bDate\.now\(|new Date\(\)|\bperformance\.now\(|\bsetTimeout\(|\bsetInterval\(/,
      where: MODEL,
      instead: 'a time given as an argument',
    },
    {
      what: 'chance in the model',
      pattern: /\bMath\.random\(|\brandom\w*\(/,
      where: MODEL,
      instead: 'a number given as an argument',
    },
    {
      what: 'an enum',
      pattern: /^\s*(export\s+)?(const\s+)?enum\s/m,
      where: CODE,
      instead: 'a union of strings',
    },
    {
      what: 'an import without its extension',
      pattern: /from\s+'\.\.?\/[^']*(?<!\.(ts|mjs|js|json))'/,
      where: CODE,
      instead: "the file's own name, with .ts",
    },
    {
      what: 'a Node module without its prefix',
      pattern:
        /from\s+'(fs|path|os|net|http|https|child_process|events|util|url|crypto|assert|stream|timers|process)(\/\w+)?'/,
      where: CODE,
      instead: "'node:fs' and so on",
    },
    {
      what: 'a focused test',
      pattern: /\b(test|it|describe)\.only\(/,
      where: /^test\//,
      instead: 'npm test -- -t NAME',
    },
    {
      what: 'a note to do something later',
      pattern: /\b(TODO|FIXME|XXX|HACK)\b/,
      where: /^(?!LICENSE|docs\/errors\.md).*\.(ts|mjs|cc|c|h|md|json|sh|yaml|yml)$/,
      instead: 'do it, or say what is not there in README.md',
    },
    {
      what: "a path of somebody's machine",
      pattern: /(?<![\w.$}/-])\/(work|root|home|Users|tmp)\/\w/,
      where: /^(?!LICENSE).*$/,
      instead: 'a path from the root of the checkout, or os.tmpdir()',
    },
    {
      what: 'the host name of a package registry',
      pattern: /registry\.(npmjs|yarnpkg|npmmirror)\.|artifactory|jfrog\.io|npm\.pkg\.github/i,
      where: /^(?!LICENSE).*$/,
      instead: 'nothing: the machine knows its registry',
    },
  ];

  test.each(BANS)('$what', ({ pattern, where, except, instead }) => {
    const wrong = FILES.filter((file) => file !== SELF && where.test(file) && !except?.test(file)).flatMap(
      (file) => {
        const found = pattern.exec(readText(file));
        if (!found) return [];
        const line = readText(file).slice(0, found.index).split('\n').length;
        return [`${file}:${line} has \`${found[0].trim()}\`; instead: ${instead}`];
      },
    );
    expectNone(wrong);
  });
});

describe('files and functions stay small', () => {
  const LINES_MAX = 400;
  const LIMITED = /^(src|scripts|native|bpf|bench)\/.*\.(ts|mjs|cc|c|h)$/;
  /** Files over the limit: path -> the lines it may have. Rows may only shrink or go. */
  const LONGER: Readonly<Record<string, number>> = {};
  /** Functions over Biome's limit (`biome-ignore lint/complexity/noExcessiveLinesPerFunction`): path -> how many. */
  const LONG_FUNCTIONS: Readonly<Record<string, number>> = {};

  const linesOf = (file: string) => readText(file).split('\n').length - 1;

  test(`no file is longer than ${LINES_MAX} lines`, () => {
    const wrong = FILES.filter((file) => LIMITED.test(file) && linesOf(file) > (LONGER[file] ?? LINES_MAX));
    expectNone(wrong.map((file) => `${file}: ${linesOf(file)} lines; split it by nouns`));
  });

  test('the list of longer files holds none that has become short or is gone', () => {
    expectNone(Object.keys(LONGER).filter((file) => !FILES.includes(file) || linesOf(file) <= LINES_MAX));
  });

  test('the limit on functions is switched off nowhere else', () => {
    const count = (file: string) =>
      readText(file).split('biome-ignore lint/complexity/noExcessiveLines').length - 1;
    const code = FILES.filter((file) => /\.(ts|mjs)$/.test(file) && file !== SELF);
    expectNone(code.filter((file) => count(file) !== (LONG_FUNCTIONS[file] ?? 0)));
  });
});

describe('package-lock.json', () => {
  interface Locked {
    readonly resolved?: string;
    readonly dependencies?: Record<string, string>;
    readonly optionalDependencies?: Record<string, string>;
    readonly devDependencies?: Record<string, string>;
  }
  const packages: Record<string, Locked> = JSON.parse(readText('package-lock.json')).packages;

  test('names no URL from which a package came', () => {
    expectNone(Object.keys(packages).filter((name) => packages[name]!.resolved !== undefined));
  });

  /** Node's way of finding a package: beside its user, then outwards. */
  function isLocked(user: string, name: string): boolean {
    const own = `${user === '' ? '' : `${user}/`}node_modules/${name}`;
    if (own in packages) return true;
    if (user === '') return false;
    return isLocked(user.slice(0, Math.max(0, user.lastIndexOf('node_modules/') - 1)), name);
  }

  test('holds every package that another one names, for other machines too', () => {
    // A registry that lacks one makes npm leave it out, and then `npm ci` of npm 11 refuses the whole file.
    const wrong = Object.entries(packages).flatMap(([user, entry]) =>
      Object.keys({ ...entry.dependencies, ...entry.optionalDependencies, ...entry.devDependencies })
        .filter((name) => !isLocked(user, name))
        .map((name) => `${user || 'package.json'} names ${name}`),
    );
    expectNone(wrong);
  });
});

describe('documentation', () => {
  test('pages made from tables are up to date', () => {
    const check = spawnSync(process.execPath, ['scripts/docs.mjs', '--check'], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    expect(`${check.stdout}${check.stderr}`).toBe('');
    expect(check.status).toBe(0);
  });

  test('every error code is explained', () => {
    const page = readText('docs/errors.md');
    expectNone(Object.keys(ERRORS).filter((code) => !page.includes(`\`${code}\``)));
  });

  program.test('every error code is raised somewhere', () => {
    const text = SOURCES.filter((file) => file !== 'src/model/errors.ts')
      .map(readText)
      .join('\n');
    expectNone(Object.keys(ERRORS).filter((code) => !text.includes(code)));
  });

  test('links between our own pages lead somewhere', () => {
    const wrong = FILES.filter((file) => file.endsWith('.md')).flatMap((file) =>
      [...readText(file).matchAll(/\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)/g)]
        .map(([, link]) => new URL(link!, `file:///${file}`).pathname.slice(1))
        .filter(
          (target) => !FILES.some((one) => one === target || one.startsWith(`${target.replace(/\/$/, '')}/`)),
        )
        .map((target) => `${file} links to ${target}`),
    );
    expectNone(wrong);
  });
});
